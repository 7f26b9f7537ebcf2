package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

const (
	outageShards   = 4
	outageTenants  = 200 // on all shards together
	outageRows     = 20_000
	outageConns    = 8
	outageRate     = 150                   // statements per second of each shard's tenants
	outagePatience = time.Second / 2       // of each caller
	atOnce         = 50 * time.Millisecond // longer than a refusal takes that waits for nothing
	never          = 24 * time.Hour        // in place of when a shard served again that did not in its phase
	pad            = 2000                  // bytes of a row that the tenants of the failing shard insert
	outageLongest  = time.Minute           // for a round: what takes longer is a failure of the run
)

// fault is what happens to the first shard.
type fault struct {
	name       string
	begin, end func(ctx context.Context, s *failing) error
}

// failing is the shard that it happens to.
type failing struct {
	server *pgtest.Server
	proxy  *pgtest.Proxy
	disk   string // by what means it was made full
}

var faults = []fault{
	{
		"killed",
		func(_ context.Context, s *failing) error { return s.server.Kill() },
		func(ctx context.Context, s *failing) error { return s.server.Restart(ctx) },
	},
	{
		"stalled",
		func(_ context.Context, s *failing) error { s.proxy.Stall(true); return nil },
		func(_ context.Context, s *failing) error { s.proxy.Stall(false); return nil },
	},
	{
		"disk full",
		func(_ context.Context, s *failing) (err error) { s.disk, err = s.server.FillDisk(); return err },
		func(_ context.Context, s *failing) error { return s.server.FreeDisk() },
	},
}

// smallDisks: the last of the faults can be made.
const smallDisks = runtime.GOOS == "linux"

// The phases of a round. The first two are the same, so that their difference is that of two equal phases.
const (
	outageFirst = iota
	outageBefore
	outageDuring
	outageAfter
	outagePhases
)

// outageBounds are where phases begin, and where the last one ends, in units of phase: a fault needs time to show all it does.
var outageBounds = [outagePhases + 1]time.Duration{0, 1, 2, 5, 6}

var outageNames = [outagePhases]string{"outage_first", "outage_before", "outage_during", "outage_after"}

// outageTimes is how long a fault is measured. The phase during it is three times as long.
type outageTimes struct {
	rounds int
	phase  time.Duration
}

// outageRound is what one fault did.
type outageRound struct {
	others  [outagePhases]sample // tenants of the other shards
	control [outagePhases]sample // somebody who has nothing to do with any of it, on one of the same servers
	lost    int                  // statements of theirs without an answer
	early   int                  // of the failing shard's own tenants, before the fault
	// Of the failing shard's own tenants, from the fault on or from when its cause is gone.
	firstTyped, served time.Duration
	quick              time.Duration // from then on nobody waited
	refused            sample        // how long it took then to be refused
}

// measureOutage prints what the tenants of three shards notice of a fault of the fourth.
func measureOutage(ctx context.Context, out io.Writer, o options) (_ results, err error) {
	r, err := startOutage(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	faults := faults
	if !smallDisks {
		faults = faults[:len(faults)-1]
		fmt.Fprintln(out, "\nthe outage of a shard whose disk is full is left out: it takes Linux")
	}
	rounds := make([][]outageRound, len(faults))
	for n := range o.outageTimes.rounds {
		for _, i := range turn(len(faults), n) {
			one, err := r.round(ctx, faults[i], o.outageTimes.phase)
			if err != nil {
				return nil, fmt.Errorf("outage, %s: %w", faults[i].name, err)
			}
			rounds[i] = append(rounds[i], one)
		}
	}
	if smallDisks {
		fmt.Fprintf(out, "\nthe disk is made full by %s\n", r.failing.disk)
	}
	return outageResults(rounds), printOutage(out, rounds, o.outageTimes)
}

// outageRun is the fleet.
type outageRun struct {
	fleets    []*fleet
	failing   failing
	connector *shardedpg.Connector
	db        *sql.DB
	control   *sql.DB // plain pgx on the last shard, as one tenant
	rows      int
	own       []string // tenants of the failing shard
	others    []string
}

func startOutage(ctx context.Context) (_ *outageRun, err error) {
	r := &outageRun{}
	defer func() {
		if err != nil {
			_ = r.close()
		}
	}()
	fleet := registry.Fleet{Plans: []registry.Plan{{Name: "p", StatementTimeout: 30 * time.Second, WorkMemKB: 4 << 10, MaxConns: 5, Weight: 1}}}
	for n := range outageShards {
		o := pgtest.Options{Name: fmt.Sprint("shard", n), Settings: map[string]string{"autovacuum": "off"}}
		if n == 0 && smallDisks {
			o.SmallDisk = "base"
		}
		f, load := newFleet(outageRows, outageTenants)
		if err := f.startOn(ctx, o, load...); err != nil {
			return nil, err
		}
		r.fleets = append(r.fleets, f)
		dsn := f.server.DSN(benchRole, benchDatabase)
		if n == 0 {
			if r.failing.proxy, err = pgtest.StartProxy(ctx, f.server); err != nil {
				return nil, err
			}
			r.failing.server, dsn = f.server, r.failing.proxy.DSN(benchRole, benchDatabase)
			if err := f.server.Exec(ctx, benchDatabase, "create table fill (pad text)", "alter table fill alter pad set storage plain",
				"grant insert on fill to "+benchRole); err != nil {
				return nil, err
			}
		}
		fleet.Shards = append(fleet.Shards, registry.Shard{Name: o.Name, DSN: dsn})
	}
	r.rows = r.fleets[0].rows
	for n, tenant := range r.fleets[0].tenants {
		fleet.Tenants = append(fleet.Tenants, registry.Tenant{ID: tenant, Shard: fleet.Shards[n%outageShards].Name, Plan: "p"})
		if n%outageShards == 0 {
			r.own = append(r.own, tenant)
		} else {
			r.others = append(r.others, tenant)
		}
	}
	store, err := registry.NewStatic(fleet)
	if err != nil {
		return nil, err
	}
	if r.connector, err = shardedpg.NewConnector(shardedpg.Config{
		Store: store, GUC: tenantSetting, MaxConns: outageConns, LookupTimeout: 10 * time.Second,
	}); err != nil {
		return nil, err
	}
	last := r.fleets[outageShards-1]
	plain, err := pgx.ParseConfig(last.server.DSN(benchRole, benchDatabase))
	if err != nil {
		return nil, err
	}
	plain.RuntimeParams[tenantSetting] = last.tenants[0]
	r.control = stdlib.OpenDB(*plain)
	r.control.SetMaxIdleConns(outageConns)
	r.db = sql.OpenDB(r.connector)
	r.db.SetMaxIdleConns(outageShards * outageConns)
	return r, nil
}

func (r *outageRun) close() error {
	var errs []error
	if r.db != nil {
		errs = append(errs, r.db.Close())
	}
	if r.control != nil {
		errs = append(errs, r.control.Close())
	}
	if r.failing.proxy != nil {
		errs = append(errs, r.failing.proxy.Stop())
	}
	for _, f := range r.fleets {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// read is what the tenants of the other shards do, insert what those of the failing one do.
func (r *outageRun) read(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, outagePatience)
	defer cancel()
	tenant := r.others[n%len(r.others)]
	return read(shardedpg.WithTenant(ctx, tenant), r.db, tenant, int64(1+n%r.rows))
}

func (r *outageRun) insert(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, outagePatience)
	defer cancel()
	_, err := r.db.ExecContext(shardedpg.WithTenant(ctx, r.own[n%len(r.own)]), "insert into fill values (repeat('x', $1))", pad)
	return err
}

// round lets one fault happen, and returns when the shard serves again.
func (r *outageRun) round(ctx context.Context, f fault, phase time.Duration) (one outageRound, err error) {
	ctx, cancel := context.WithTimeout(ctx, outageLongest)
	defer cancel()
	if err := r.failing.server.Exec(ctx, benchDatabase, "truncate fill", "checkpoint"); err != nil {
		return one, err
	}
	for n := range r.others {
		if err := r.read(ctx, n); err != nil {
			return one, err
		}
	}
	for n := range r.own {
		if err := r.insert(ctx, n); err != nil {
			return one, err
		}
	}
	runtime.GC()
	var others, own, control []arrival
	var ended time.Duration // when the cause was gone
	var wg sync.WaitGroup
	begin := time.Now()
	count := int(outageBounds[outagePhases] * phase * outageRate / time.Second)
	until, served := context.WithCancel(ctx)
	defer served()
	wg.Go(func() {
		others = openLoop(ctx, begin, time.Second/outageRate/(outageShards-1), count*(outageShards-1), r.read)
	})
	wg.Go(func() {
		control = openLoop(ctx, begin, time.Second/outageRate/(outageShards-1), count*(outageShards-1), func(ctx context.Context, n int) error {
			return read(ctx, r.control, r.fleets[0].tenants[0], int64(1+n%r.rows))
		})
	})
	wg.Go(func() {
		own = openLoop(until, begin, time.Second/outageRate, int(outageLongest.Seconds())*outageRate, r.insert)
	})
	wg.Go(func() {
		pause(time.Until(begin.Add(outageBounds[outageDuring] * phase)))
		err = f.begin(ctx, &r.failing)
		pause(time.Until(begin.Add(outageBounds[outageAfter] * phase)))
		err = errors.Join(err, f.end(ctx, &r.failing))
		ended = time.Since(begin)
		pause(time.Until(begin.Add(outageBounds[outagePhases] * phase)))
		for err == nil && ctx.Err() == nil && r.insert(ctx, 0) != nil {
			continue
		}
		served()
	})
	wg.Wait()
	if err := errors.Join(err, ctx.Err(), wrongRow(others), wrongRow(control)); err != nil {
		return one, err
	}
	for _, a := range others {
		if a.err != nil {
			one.lost++
		}
	}
	one.others, one.control = byPhase(others, phase), byPhase(control, phase)
	return one, one.feel(own, outageBounds[outageDuring]*phase, ended)
}

// byPhase is what was seen in each phase. Who got no answer has waited as long as anybody does.
func byPhase(all []arrival, phase time.Duration) (samples [outagePhases]sample) {
	var nanos [outagePhases][]int64
	for _, a := range all {
		if a.err != nil {
			a.took = max(a.took, outagePatience)
		}
		i := outagePhases - 1
		for a.planned < outageBounds[i]*phase {
			i--
		}
		nanos[i] = append(nanos[i], a.took.Nanoseconds())
	}
	for i := range nanos {
		samples[i] = summarize(nanos[i])
		samples[i].ops = float64(len(nanos[i])) / ((outageBounds[i+1] - outageBounds[i]) * phase).Seconds()
	}
	return samples
}

// feel is what the failing shard's own tenants saw of a fault.
func (one *outageRound) feel(own []arrival, begun, ended time.Duration) error {
	var typed, served []time.Duration
	for _, a := range own {
		end := a.planned + a.took
		switch {
		case a.err == nil && end >= ended:
			served = append(served, end)
		case a.err != nil && end < begun:
			one.early++
		case isTyped(a.err):
			typed = append(typed, end)
		}
	}
	one.quick = quickFrom(own, begun, ended)
	var refused []int64
	for _, a := range own {
		if isTyped(a.err) && a.planned > begun+one.quick && a.planned < ended {
			refused = append(refused, a.took.Nanoseconds())
		}
	}
	if len(typed) == 0 {
		return errors.New("no statement of the shard's own tenants had a typed error")
	}
	one.firstTyped, one.served, one.refused = slices.Min(typed)-begun, never, summarize(refused)
	if len(served) > 0 {
		one.served = slices.Min(served) - ended
	}
	return nil
}

// quickFrom is how long after the fault most statements no longer wait for anything: from then on that is so for each tenth of a
// second. A single slow one may be the machine's.
func quickFrom(own []arrival, begun, ended time.Duration) time.Duration {
	const width = 100 * time.Millisecond
	from := begun
	for at := begun; at+width <= ended; at += width {
		slow, all := 0, 0
		for _, a := range own {
			if a.planned < at || a.planned >= at+width {
				continue
			}
			all++
			if a.took > atOnce {
				slow++
			}
		}
		if 2*slow > all {
			from = at + width
		}
	}
	return from - begun
}

// isTyped reports whether a caller can tell from err what has happened.
func isTyped(err error) bool {
	var own *shardedpg.Error
	var answer *pgconn.PgError
	return errors.As(err, &own) || errors.As(err, &answer)
}
