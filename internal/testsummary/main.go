// Command testsummary runs go test -json with the given arguments, shows each
// package as it ends and the output of each test that failed, and closes with one
// line of its own:
//
//	testsummary [-failed N] [arguments of go test]
//
//	N passed, M failed
//
// or, when tests were skipped, "N passed, M failed, K skipped". Subtests are not
// counted, the tests that hold them are. A package that fails without a failed
// test (it does not build, say) counts as one failure, and so does go test when it
// fails for a reason of its own. Failures of checks that ran before are added with
// -failed. The exit status is 1 if anything failed.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s := newSummary(os.Stdout)
	args := os.Args[1:]
	if len(args) > 1 && args[0] == "-failed" {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			s.broke(fmt.Errorf("-failed: %w", err))
		}
		s.failed += n
		args = args[2:]
	}
	if err := run(ctx, s, args); err != nil {
		s.broke(err)
	}
	if !s.finish() {
		os.Exit(1)
	}
}

func run(ctx context.Context, s *summary, args []string) error {
	//nolint:gosec // the arguments are the developer's own
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	// An interrupt reaches the tests too; they end in their own time.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := s.read(out); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	return nil
}
