//go:build unix && !linux

package pgtest

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// processAttributes puts the program into its own process group. These systems have no parent-death signal: a server
// outlives a killed parent until it notices that its folder was swept.
func processAttributes(a account, _ bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential(a), Setpgid: true}
}

func children(parent int) []int {
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(parent)).Output() // exit status 1 means none
	var pids []int
	for field := range strings.FieldsSeq(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
