package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// cpuTime is processor time in nanoseconds.
type cpuTime struct {
	client  int64         // of this process
	servers map[int]int64 // of the peer's server processes
}

// cpuOf reads the clocks. Where /proc does not tell, the servers' are missing.
func cpuOf(ctx context.Context, admin *sql.DB, peer string) (cpuTime, error) {
	t := cpuTime{servers: map[int]int64{}}
	pids, err := pidsOf(ctx, admin, peer)
	if err != nil {
		return t, err
	}
	for _, pid := range pids {
		if ns, ok := processTime(pid); ok {
			t.servers[pid] = ns
		}
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return t, err
	}
	t.client = usage.Utime.Nano() + usage.Stime.Nano()
	return t, nil
}

// since returns what was used in between, in microseconds. A process that ended meanwhile is not counted.
func (t cpuTime) since(before cpuTime) (client, servers float64) {
	var ns int64
	for pid, now := range t.servers {
		ns += now - before.servers[pid] // 0 for one that is new
	}
	return float64(t.client-before.client) / 1e3, float64(ns) / 1e3
}

// processTime reads the scheduler's own clock, because the one in stat counts in hundredths of a second.
func processTime(pid int) (int64, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(string(text), " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	return ns, err == nil
}

// pidsOf finds the server processes of the connections that carry the peer's name.
func pidsOf(ctx context.Context, admin *sql.DB, peer string) (pids []int, err error) {
	rows, err := admin.QueryContext(ctx, "select pid from pg_stat_activity where application_name = $1", peer)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, rows.Err()
}
