package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal on which a command runs.
type terminal struct {
	t    *testing.T
	keys *os.File
	cmd  *exec.Cmd

	mu   sync.Mutex
	seen strings.Builder
}

// on starts a command on a terminal of its own.
func (f *fleet) on(t *testing.T, columns uint16, args ...string) *terminal {
	t.Helper()
	return f.program(t, columns, binary, args...)
}

func (f *fleet) program(t *testing.T, columns uint16, program string, args ...string) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = keys.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	defer screen.Close()

	term := &terminal{t: t, keys: keys, cmd: exec.CommandContext(t.Context(), program, args...)}
	term.cmd.Env = append(f.env, "TERM=xterm-256color")
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = screen, screen, screen
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, term.cmd.Start())
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := keys.Read(buffer)
			term.mu.Lock()
			term.seen.Write(buffer[:n])
			term.mu.Unlock()
			if err != nil { // EIO when the command has ended
				return
			}
		}
	}()
	return term
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.seen.String()
}

// shows waits for text.
func (term *terminal) shows(text string) {
	term.t.Helper()
	require.Eventually(term.t, func() bool { return strings.Contains(term.text(), text) }, 30*time.Second, 2*time.Millisecond,
		"%q is not on the terminal", text)
}

func (term *terminal) press(keys string) {
	term.t.Helper()
	_, err := term.keys.WriteString(keys)
	require.NoError(term.t, err)
}

// ends waits for the command and returns its exit code.
func (term *terminal) ends() int {
	term.t.Helper()
	_ = term.cmd.Wait() // the code says it
	return term.cmd.ProcessState.ExitCode()
}

func TestPurgeAsksForTheIDOnATerminal(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "tenant", "add", "acme")
	f.ok(t, "tenant", "disable", "acme")
	for name, c := range map[string]struct {
		keys, says string
		code       int
	}{
		"another ID": {"acne\n", "another ID: nothing was destroyed", exitFailed},
		"nothing":    {"\n", "another ID: nothing was destroyed", exitFailed},
		"end":        {"\x04", "another ID: nothing was destroyed", exitFailed},
		"Ctrl-C":     {"\x03", "interrupted: nothing was destroyed", exitFailed},
	} {
		term := f.on(t, 80, "tenant", "purge", "acme")
		term.shows("Type the ID of the tenant again: ")
		term.press(c.keys)
		term.shows(c.says)
		require.Equal(t, c.code, term.ends(), "%s: %q", name, term.text())
		require.Equal(t, "disabled", f.json(t, "tenant", "show", "acme")["state"], name)
	}
	term := f.on(t, 80, "tenant", "purge", "acme")
	term.shows("Type the ID of the tenant again: ")
	term.press("acme\n")
	term.shows(`tenant "acme" purged`)
	require.Zero(t, term.ends())
	require.Equal(t, exitFailed, f.run(t, "", "tenant", "show", "acme").code)
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

func TestCtrlCEndsABatchThatCanBeRunAgain(t *testing.T) {
	t.Parallel()
	f := ready(t)
	ids := t.TempDir() + "/ids"
	const most = 3000
	var lines strings.Builder
	for n := range most {
		fmt.Fprintf(&lines, "t%04d\n", n)
	}
	require.NoError(t, os.WriteFile(ids, []byte(lines.String()), 0o600))
	f.ok(t, "registry", "apply", "-f", unlimited(t, f))

	term := f.on(t, 40, "tenant", "add", "-f", ids, "--model", "partition")
	term.shows("%") // the bar
	require.Eventually(t, func() bool {
		return len(f.json(t, "tenant", "list", "--state", "active")["tenants"].([]any)) > 0
	}, 30*time.Second, 5*time.Millisecond)
	term.press("\x03")
	term.shows("interrupted")
	require.Equal(t, exitFailed, term.ends(), term.text())
	require.Contains(t, term.text(), "run the same again")
	require.NotContains(t, term.text(), "context canceled")
	require.NotContains(t, term.text(), "done!", "most were not tried")
	require.Contains(t, term.text(), "stopped")
	for line := range strings.Lines(escapes.ReplaceAllString(term.text(), "")) {
		line = strings.TrimPrefix(line, "^C") // the key, as the terminal shows it by itself, and the bar is drawn over it
		if strings.Contains(line, "%") {
			require.LessOrEqual(t, len(strings.TrimRight(line, "\r\n")), 40, "what the terminal breaks is not erased whole: %q", line)
		}
	}

	added := f.json(t, "tenant", "list", "--limit", "10000")["tenants"].([]any)
	require.NotEmpty(t, added)
	require.Less(t, len(added), most, "it was interrupted in the middle")
	// Whoever was left in provisioning runs no statements until the batch is run again, which completes it.
	require.NoError(t, os.WriteFile(ids, []byte(lines.String()[:6*(len(added)+5)]), 0o600))
	r := f.run(t, "", "tenant", "add", "-f", ids, "--model", "partition")
	require.Zero(t, r.code, r.notes)
	require.Len(t, f.json(t, "tenant", "list", "--limit", "10000", "--state", "active")["tenants"], len(added)+5)
}

func TestABatchSaysHowFarItIsAndHowLongItWillTake(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "registry", "apply", "-f", unlimited(t, f))
	var ids strings.Builder
	for n := range 9000 {
		fmt.Fprintf(&ids, "t%04d\n", n)
	}
	file := t.TempDir() + "/ids"
	require.NoError(t, os.WriteFile(file, []byte(ids.String()), 0o600))
	term := f.on(t, 120, "tenant", "add", "-f", file, "--no-provision")
	term.shows(" of 9000 in ")
	term.shows("~ETA: ")
	term.press("\x03")
	require.Equal(t, exitFailed, term.ends(), term.text())
	for line := range strings.Lines(escapes.ReplaceAllString(term.text(), "")) {
		require.Less(t, len(strings.TrimRight(line, "\r\n")), 120)
	}
}

// unlimited is a fleet file in which both shards take any number of tenants.
func unlimited(t *testing.T, f *fleet) string {
	t.Helper()
	file := t.TempDir() + "/fleet.yaml"
	exported := f.ok(t, "registry", "export")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(exported, "max_tenants: 500", "max_tenants: unlimited")), 0o600))
	return file
}

func TestTopRedrawsAndLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	f := ready(t)
	term := f.on(t, 100, "top", "--interval", "200ms")
	require.Eventually(t, func() bool { return strings.Count(term.text(), clearScreen) >= 3 }, 30*time.Second, 2*time.Millisecond)
	term.press("\x03")
	require.Zero(t, term.ends())
	require.Eventually(t, func() bool { return strings.Contains(term.text(), leaveScreen) }, 10*time.Second, 2*time.Millisecond)
	text := term.text()
	require.True(t, strings.HasPrefix(text, enterScreen))
	require.Equal(t, 1, strings.Count(text, leaveScreen))
	require.Eventually(t, func() bool {
		_, after, _ := strings.Cut(term.text(), leaveScreen)
		return strings.Contains(after, "TENANT") && strings.HasSuffix(after, "\n")
	}, 10*time.Second, 2*time.Millisecond, "the last table stays")
}

// A name that is long must not push the numbers off the screen, nor shards that are gone the lines.
func TestTopFitsOnTheTerminal(t *testing.T) {
	t.Parallel()
	f := ready(t)
	long := strings.Repeat("long-", 20) + "日本"
	f.ok(t, "tenant", "add", long, "--shard", "eu1")
	f.sleeps(t, f.tagged(t), long, 1)
	for _, most := range []int{10, 30} {
		var gone strings.Builder
		for n := range most {
			fmt.Fprintf(&gone, "  gone%02d: {dsn: 'host=/nowhere user=app'}\n", n)
		}
		f.ok(t, "registry", "apply", "-f", written(t, "shards:\n"+gone.String()))
		term := f.on(t, 100, "top", "--interval", "200ms")
		require.Eventually(t, func() bool { return strings.Count(term.text(), clearScreen) >= 3 }, 30*time.Second, 2*time.Millisecond)
		term.press("\x03")
		require.Zero(t, term.ends())
		table := escapes.ReplaceAllString(strings.Split(term.text(), clearScreen)[2], "")
		lines := strings.Split(strings.TrimSuffix(table, "\r\n"), "\r\n")
		require.Less(t, len(lines), 24, "a line more and the screen scrolls")
		require.Contains(t, lines[0], "load ")
		for i, line := range lines {
			lines[i] = text.Trim(line, 100) // what is seen of it
		}
		if most == 10 {
			require.Regexp(t, `(?m)^eu1 +long-long-long-long-l[-long]*… +1\.00 +0\.00 +0\.00 +0\.00 +1\.00 +1 `, strings.Join(lines, "\n"))
			require.Contains(t, lines[len(lines)-1], `shard "gone09": no connection`)
		} else {
			require.Contains(t, lines[len(lines)-1], "lines more: shardedpg top --once")
		}
	}
	require.Contains(t, f.run(t, "", "top", "--once", "--interval", "200ms").out, long, "whole where there is room")
}

func TestTopSaysWhyAShardIsMissingHoweverNarrowTheTerminal(t *testing.T) {
	t.Parallel()
	f := ready(t)
	f.ok(t, "registry", "apply", "-f", written(t, "shards:\n  gone: {dsn: 'host=/nowhere/at/all user=app'}\n"))
	term := f.on(t, 60, "top", "--interval", "200ms")
	require.Eventually(t, func() bool { return strings.Count(term.text(), clearScreen) >= 3 }, 30*time.Second, 2*time.Millisecond)
	term.press("\x03")
	require.Zero(t, term.ends())
	table := escapes.ReplaceAllString(strings.Split(term.text(), clearScreen)[2], "")
	seen := make([]string, 0, 24)
	for line := range strings.SplitSeq(table, "\r\n") {
		seen = append(seen, text.Trim(line, 60))
	}
	require.Contains(t, strings.Join(seen, " "), "connect: no such file or directory")
}

func TestCtrlZDoesNotLeaveTheShellOnTopsScreen(t *testing.T) {
	t.Parallel()
	f := ready(t)
	term := f.program(t, 100, "bash", "--norc", "-i")
	term.press(binary + " top --interval 200ms\n")
	require.Eventually(t, func() bool { return strings.Count(term.text(), clearScreen) >= 2 }, 30*time.Second, 2*time.Millisecond)
	term.press("\x1a")
	drawn := strings.Count(term.text(), clearScreen)
	require.Eventually(t, func() bool { return strings.Count(term.text(), clearScreen) >= drawn+2 }, 20*time.Second, 2*time.Millisecond)
	term.press("\x03")
	term.shows(leaveScreen)
	term.press("exit\n")
	term.ends()
}
