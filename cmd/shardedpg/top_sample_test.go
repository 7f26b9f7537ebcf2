package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
)

func TestSessionsAreCountedWithTheirTenantAndByWhatTheyWaitFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w := &whose{login: "app", database: "fleet", owners: map[string]owner{"own": {ours: true, sole: "apart", asked: now}, "else": {asked: now}}}
	s := &sampler{server: &server{shard: "eu1", whose: w}}
	rows := map[string]*load{}
	seen := func(pid int, database, login, application, wait string, more func(o *observed)) observed {
		o := observed{PID: pid, Leader: pid, Database: database, Login: login, Application: application, Wait: wait, Seconds: 2}
		if more != nil {
			more(&o)
		}
		return o
	}
	hidden, err := s.count(t.Context(), rows, []observed{
		seen(1, "fleet", "app", "tenant:acme", "", nil),
		seen(2, "fleet", "", "", "", func(o *observed) { o.Leader = 1 }), // a parallel worker
		seen(3, "fleet", "app", "tenant:acme", "IO", nil),
		seen(4, "fleet", "app", "tenant:globex", "Lock", func(o *observed) { o.Blockers = []int{1, 3, 5, 0} }),
		seen(5, "fleet", "app", "", "LWLock", nil),
		seen(6, "own", "app", "", "Client", nil),
		seen(7, "own", "dba", "psql", "", nil),
		seen(8, "else", "app", "tenant:acme", "", nil),
		seen(9, "", "", "", "Activity", nil),
		seen(10, "fleet", "app", "tenant:idle", "Client", func(o *observed) { o.IdleInTx = true }),
		seen(11, "fleet", "x", "", "", func(o *observed) { o.Hidden = true }),
	}, true)
	require.NoError(t, err)
	require.Equal(t, 1, hidden)
	named := map[string]load{}
	for _, row := range rows {
		named[row.name()] = *row
	}
	acme := named["acme"]
	require.Equal(t, []float64{3, 2, 1, 0, 0}, []float64{acme.Load, acme.Running, acme.IO, acme.Lock, acme.Other})
	require.Equal(t, 2, acme.Active, "a worker is no statement")
	globex := named["globex"]
	require.Equal(t, []float64{1, 0, 0, 1, 0}, []float64{globex.Load, globex.Running, globex.IO, globex.Lock, globex.Other})
	require.Equal(t, []string{"acme", "pid 5", "a prepared transaction"}, globex.BlockedBy)
	require.InDelta(t, 1, named["(untagged)"].Other, 0)
	require.True(t, named["(untagged)"].unmarked)
	require.InDelta(t, 1, named["apart"].Load, 0, "it has its database alone")
	require.InDelta(t, 2, named["(others)"].Load, 0)
	require.Equal(t, 1, named["idle"].IdleInTx)
	require.Zero(t, named["idle"].Load)
}

func TestWhoIsWhoStaysKnownWhileTheRegistryIsDown(t *testing.T) {
	t.Parallel()
	reg, err := registry.Open("host=/nowhere user=operator", nil)
	require.NoError(t, err)
	defer reg.Close()
	w := &whose{reg: reg, login: "app", database: "shared", owners: map[string]owner{}, names: map[string]string{}, searched: map[string]search{}}
	_, _, err = w.of(t.Context(), "own", "app", "psql")
	require.Error(t, err)
	w.owners["own"] = owner{ours: true, sole: "acme", asked: time.Now().Add(-time.Hour)}
	kind, tenant, err := w.of(t.Context(), "own", "app", "psql")
	require.NoError(t, err)
	require.Equal(t, ofTenant, kind)
	require.Equal(t, "acme", tenant)
	require.Equal(t, "?? 01234", w.named(t.Context(), "?? 01234"))
	require.True(t, w.searched[""].ended, "the next table does not wait for it")
}
