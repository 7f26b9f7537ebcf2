package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"
)

const pollInterval = 2 * time.Millisecond

// process is a started program that ends with this one.
type process struct {
	command *exec.Cmd
	done    chan struct{} // closed when the program has ended
	err     error         // how it ended; valid after done
}

// startProcess starts the command and watches it. On Linux the kernel signals the program when the thread that started it
// ends, so that thread is kept for as long as the program runs: Go would otherwise end it at will.
func startProcess(command *exec.Cmd) (*process, error) {
	p := &process{command: command, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := command.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = command.Wait()
		close(p.done)
	}()
	return p, <-started
}

func (p *process) pid() int { return p.command.Process.Pid }

// end signals the program and waits until it is gone.
func (p *process) end(signal os.Signal) {
	_ = p.command.Process.Signal(signal) // the only failure is that it has ended already
	<-p.done
}

// poll waits until the condition holds. It gives up when the context ends, or the process, if there is one.
func poll(ctx context.Context, p *process, condition func() bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var ended chan struct{}
	if p != nil {
		ended = p.done
	}
	for !condition() {
		select {
		case <-ended:
			return fmt.Errorf("it ended: %w", p.err)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
