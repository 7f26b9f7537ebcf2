package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// footprint is what a peer keeps open on the server between two rounds.
type footprint struct {
	peer        string
	concurrency int
	delayMS     float64
	connections int
	backendKB   int64 // private memory of its server processes; 0 where /proc does not tell
}

// footprintOf counts the connections that carry the peer's name. Reading /proc works because server and benchmark share
// a machine; elsewhere the memory stays 0.
func footprintOf(ctx context.Context, admin *sql.DB, peer string) (footprint, error) {
	f := footprint{peer: peer}
	pids, err := pidsOf(ctx, admin, peer)
	for _, pid := range pids {
		f.connections++
		f.backendKB += privateKB(pid)
	}
	return f, err
}

// privateKB is the anonymous resident memory of a process: what it does not share with the other backends.
func privateKB(pid int) int64 {
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
			return kb
		}
	}
	return 0
}
