package pgtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// processAttributes puts the program into its own process group, so that Ctrl-C in a terminal reaches it through us only,
// and has the kernel end it when we end. PgBouncer and initdb know no useful meaning of SIGQUIT.
func processAttributes(a account, postmaster bool) *syscall.SysProcAttr {
	signal := syscall.SIGKILL
	if postmaster {
		signal = syscall.SIGQUIT
	}
	return &syscall.SysProcAttr{Credential: credential(a), Setpgid: true, Pdeathsig: signal}
}

func children(parent int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the only error is a malformed pattern
	for _, path := range stats {
		if pid, ppid, state := readStat(path); ppid == parent && state != 'Z' {
			pids = append(pids, pid)
		}
	}
	return pids
}

// alive reports whether the process runs. A dead one that nobody has collected yet counts as gone: in a container
// without an init it stays in that state.
func alive(pid int) bool {
	_, _, state := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return state != 0 && state != 'Z'
}

func readStat(path string) (pid, ppid int, state byte) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, 0
	}
	// pid (name) state ppid …; the name may hold anything, also parentheses.
	_, _ = fmt.Sscan(string(text), &pid)
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, 0
	}
	ppid, _ = strconv.Atoi(string(fields[1]))
	return pid, ppid, fields[0][0]
}
