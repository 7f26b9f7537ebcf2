package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

const (
	perProcess = 25
	overlap    = 5 // tenants that the next process adds, too

	childEnv = "SHARDEDPG_REGISTRY_TEST_CHILD" // number of the process
	crowdEnv = "SHARDEDPG_REGISTRY_TEST_CROWD" // and how many there are
	dsnEnv   = "SHARDEDPG_REGISTRY_TEST_DSN"
)

// child adds tenants as one of many processes, and prints how many it added and how many were there already.
func child(number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	processes, err := strconv.Atoi(os.Getenv(crowdEnv))
	if err != nil {
		return err
	}
	store, err := registry.Open(os.Getenv(dsnEnv), &registry.Options{MaxConns: 1})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	ctx := registry.WithActor(context.Background(), "process "+number)
	for deadline := time.Now().Add(time.Minute); ; { // a lookup gives up early, and the machine is busy
		if _, err = store.Shards(ctx); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	if _, err := fmt.Fprintln(os.Stdout, "connected"); err != nil {
		return err
	}
	if _, err := io.ReadAll(os.Stdin); err != nil { // all start when the last one is there
		return err
	}
	added, there := 0, 0
	for i := range perProcess + overlap {
		id := fmt.Sprintf("t%d", (n*perProcess+i)%(processes*perProcess))
		_, err := store.AddTenant(ctx, registry.Tenant{ID: id}, nil)
		switch {
		case err == nil:
			added++
		case errors.Is(err, registry.ErrExists):
			there++
		default:
			return err
		}
	}
	_, err = fmt.Fprintln(os.Stdout, added, there)
	return err
}

func TestManyProcessesAddTenantsAtOnce(t *testing.T) {
	t.Parallel()
	processes := 200
	if testing.Short() {
		processes = 16
	}
	server, err := pgtest.Start(t.Context(), pgtest.Options{
		Name: "crowded", Settings: map[string]string{"max_connections": strconv.Itoa(processes + 20)},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	database := server.NewDatabase(t)
	dsn := server.DSN("postgres", database)
	store := open(t, dsn, nil)
	require.NoError(t, store.Init(t.Context()))
	const shards = 8
	for i := range shards { // together they have room for each tenant and for no other
		require.NoError(t, store.PutShard(t.Context(), registry.Shard{
			Name: fmt.Sprintf("s%d", i), DSN: "host=nowhere", MaxTenants: processes * perProcess / shards,
		}))
	}

	// A few connect at a time: hundreds that try again and again would keep each other from it.
	const connecting = 4
	children := make([]*exec.Cmd, processes)
	gates := make([]io.Closer, processes)
	outputs, complaints := make([]*bufio.Reader, processes), make([]strings.Builder, processes)
	connected := func(i int) {
		if line, err := outputs[i].ReadString('\n'); line != "connected\n" {
			_ = children[i].Wait() // for its complaint
			require.Failf(t, "not connected", "process %d: %v: %s", i, err, complaints[i].String())
		}
	}
	for i := range children {
		children[i] = exec.CommandContext(t.Context(), os.Args[0])
		children[i].Env = append(os.Environ(), childEnv+"="+strconv.Itoa(i), crowdEnv+"="+strconv.Itoa(processes), dsnEnv+"="+dsn,
			"GOMAXPROCS=1")
		children[i].Stderr = &complaints[i]
		output, err := children[i].StdoutPipe()
		require.NoError(t, err)
		outputs[i] = bufio.NewReader(output)
		gates[i], err = children[i].StdinPipe()
		require.NoError(t, err)
		require.NoError(t, children[i].Start())
		if i >= connecting {
			connected(i - connecting)
		}
	}
	for i := processes - connecting; i < processes; i++ {
		connected(i)
	}
	start := time.Now()
	for _, gate := range gates {
		require.NoError(t, gate.Close())
	}
	added, there := 0, 0
	for i, process := range children {
		var a, e int
		_, scanned := fmt.Fscan(outputs[i], &a, &e)
		require.NoError(t, process.Wait(), "process %d", i)
		require.NoError(t, scanned, complaints[i].String())
		added, there = added+a, there+e
	}
	t.Logf("%d processes added %d tenants in %v", processes, added, time.Since(start))
	require.Equal(t, processes*perProcess, added, "each tenant was added once")
	require.Equal(t, processes*overlap, there)
	infos, err := store.ListShards(t.Context())
	require.NoError(t, err)
	for _, info := range infos {
		require.Equal(t, info.MaxTenants, info.Tenants, info.Name)
	}
	_, err = store.AddTenant(t.Context(), registry.Tenant{ID: "one-too-many"}, nil)
	require.ErrorIs(t, err, registry.ErrNoShardFits)
	full := processes * perProcess / shards
	require.ErrorContains(t, err, fmt.Sprintf("%d of %d tenants", full, full))
	require.Equal(t, []int{0}, query[int](t, dsn, `select deadlocks from pg_stat_database where datname = $1`, database))
}

func TestAKilledRegistryRoutesToNothingHalfDone(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{
		Name: "killed", Settings: map[string]string{"synchronous_commit": "on"}, // a promise is one
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	database := server.NewDatabase(t)
	store := open(t, server.DSN("postgres", database), nil)
	ctx := t.Context()
	require.NoError(t, store.Init(ctx))
	for _, name := range []string{"a", "b"} {
		require.NoError(t, store.PutShard(ctx, registry.Shard{Name: name, DSN: "host=" + name, MaxTenants: registry.UnlimitedTenants}))
	}
	var (
		mu       sync.Mutex
		promised = map[string]resolver.State{} // by what returned no error
		tried    []string
		stop     = make(chan struct{})
		wg       sync.WaitGroup
	)
	for worker := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("w%d-%d", worker, i)
				_, err := store.AddTenant(ctx, registry.Tenant{ID: id, Model: resolver.ModelSchema}, nil)
				state := resolver.StateProvisioning
				if err == nil && store.SetTenantState(ctx, id, resolver.StateActive) == nil {
					state = resolver.StateActive
				}
				mu.Lock()
				tried = append(tried, id)
				if err == nil {
					promised[id] = state
				}
				mu.Unlock()
			}
		})
	}
	progress := func(more int) {
		mu.Lock()
		from := len(promised)
		mu.Unlock()
		eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(promised) >= from+more })
	}
	for range 3 {
		progress(10)
		require.NoError(t, server.Kill())
		require.NoError(t, server.Restart(ctx))
	}
	progress(10)
	close(stop)
	wg.Wait()

	for _, id := range tried {
		info, err := store.Tenant(ctx, id)
		state, sure := promised[id]
		if !sure && errors.Is(err, resolver.ErrTenantNotFound) {
			continue
		}
		require.NoError(t, err, "%s was promised", id)
		if sure && state == resolver.StateActive {
			require.Equal(t, state, info.State)
		}
		route, err := store.Lookup(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "tenant_"+id, route.Schema)
		log, err := store.Audit(ctx, registry.AuditFilter{Kind: "tenant", Subject: id})
		require.NoError(t, err)
		actions := 1
		if info.State == resolver.StateActive {
			actions = 2
		}
		require.Len(t, log, actions, "each change with its record, and no record without its change")
	}
}

func TestARegistryKilledDuringChangesKeepsWhatItPromisedAndRecordedIt(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{
		Name: "changed", Settings: map[string]string{"synchronous_commit": "on"}, // a promise is one
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	ctx := t.Context()
	store := open(t, server.DSN("postgres", server.NewDatabase(t)), nil)
	require.NoError(t, store.Init(ctx))
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "s1", DSN: "host=s1"}))
	require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: "s1"}))
	require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: "initech", Shard: "s1"}))
	// Each subject has one writer that goes back and forth between two values. A change that failed may have happened.
	subjects := []struct {
		kind, name, field string
		values            [2]string
		set               func(value string) error
		stored            func() (string, error)
	}{
		{
			"tenant", "acme", "state",
			[2]string{"disabled", "active"},
			func(v string) error { return store.SetTenantState(ctx, "acme", resolver.State(v)) },
			func() (string, error) { route, err := store.Lookup(ctx, "acme"); return string(stateOf(route)), err },
		},
		{
			"tenant", "initech", "plan",
			[2]string{"growth", "free"},
			func(v string) error { return store.SetTenantPlan(ctx, "initech", v) },
			func() (string, error) { info, err := store.Tenant(ctx, "initech"); return info.Plan, err },
		},
		{
			"shard", "s1", "state",
			[2]string{"draining", "open"},
			func(v string) error { return store.SetShardState(ctx, "s1", registry.ShardState(v), "a test") },
			func() (string, error) {
				infos, err := store.ListShards(ctx)
				if err != nil {
					return "", err
				}
				return string(infos[0].State), nil
			},
		},
	}
	var (
		promised = make([]atomic.Pointer[string], len(subjects)) // nil while a change may or may not have happened
		done     = make([]atomic.Int64, len(subjects))
		stop     = make(chan struct{})
		wg       sync.WaitGroup
	)
	for n, s := range subjects {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				value := s.values[i%2]
				promised[n].Store(nil)
				if s.set(value) == nil {
					promised[n].Store(&value)
					done[n].Add(1)
				}
			}
		})
	}
	progress := func() {
		for n := range subjects {
			from := done[n].Load()
			// Writers compete, and one of them may be last for long on a loaded machine.
			require.Eventually(t, func() bool { return done[n].Load() >= from+10 }, 3*time.Minute, 5*time.Millisecond)
		}
	}
	for range 3 {
		progress()
		require.NoError(t, server.Kill())
		require.NoError(t, server.Restart(ctx))
		require.NoError(t, store.Init(ctx), "what is there is left alone")
	}
	progress()
	close(stop)
	wg.Wait()

	for n, s := range subjects {
		stored, err := s.stored()
		require.NoError(t, err)
		if value := promised[n].Load(); value != nil {
			require.Equal(t, *value, stored, "%s %s", s.kind, s.name)
		}
		log, err := store.Audit(ctx, registry.AuditFilter{Kind: s.kind, Subject: s.name, Limit: 10000})
		require.NoError(t, err)
		require.GreaterOrEqual(t, int64(len(log)), done[n].Load()/2, "no change without a record")
		require.Equal(t, stored, log[0].After[s.field], "the last record is what is stored")
		for i := range len(log) - 1 {
			if log[i].Before != nil {
				require.Equal(t, log[i+1].After[s.field], log[i].Before[s.field], "records of %s %s follow on each other", s.kind, s.name)
			}
		}
	}
}

func stateOf(route *resolver.Route) resolver.State {
	if route == nil {
		return ""
	}
	return route.State
}
