package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/backend"
)

// The reset is what a statement pays for when its connection served another tenant before. These are the ways to send it
// that were thought of, side by side, each in one flight with the prologue and a point read behind it.
var resetDesigns = []struct {
	name string
	send func(p *pgconn.Pipeline)
}{
	{"none: the tenant comes again", func(*pgconn.Pipeline) {}},
	{"named statements, sealed (the driver's)", func(p *pgconn.Pipeline) {
		for i := range backend.ResetSQL {
			p.SendQueryPrepared(resetName(i), nil, nil, nil)
		}
	}},
	{"the same, not sealed by BEGIN and COMMIT", func(p *pgconn.Pipeline) {
		for i := 1; i < len(backend.ResetSQL)-1; i++ {
			p.SendQueryPrepared(resetName(i), nil, nil, nil)
		}
	}},
	{"the same, sealed, without its query", func(p *pgconn.Pipeline) {
		for i, text := range backend.ResetSQL {
			if !strings.HasPrefix(text, "select") {
				p.SendQueryPrepared(resetName(i), nil, nil, nil)
			}
		}
	}},
	{"the same, sealed, its query parsed anew", func(p *pgconn.Pipeline) {
		for i, text := range backend.ResetSQL {
			if strings.HasPrefix(text, "select") {
				p.SendQueryParams(text, nil, nil, nil, nil)
			} else {
				p.SendQueryPrepared(resetName(i), nil, nil, nil)
			}
		}
	}},
	{"parsed each time (behind a pooler)", func(p *pgconn.Pipeline) {
		for _, text := range backend.ResetSQL {
			p.SendQueryParams(text, nil, nil, nil, nil)
		}
	}},
}

func resetName(i int) string { return fmt.Sprintf("reset%d", i) }

const (
	resetRounds = 400
	resetPause  = time.Millisecond
)

// measureResets prints what each design adds to a read, when the server is busy with nothing else and when it has slept
// for a millisecond before: a server that sleeps between two statements finds its caches cold, and a reset is much code.
func measureResets(ctx context.Context, out io.Writer, dsn, tenant string) error {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	prepare := map[string]string{"tenant": setLocal, "read": readSQL}
	for i, text := range backend.ResetSQL {
		prepare[resetName(i)] = text
	}
	for name, text := range prepare {
		if _, err := conn.Prepare(ctx, name, text, nil); err != nil {
			return err
		}
	}
	busy := make([][]time.Duration, len(resetDesigns))
	slept := make([][]time.Duration, len(resetDesigns))
	pause := time.NewTimer(0)
	for range resetRounds {
		for i, d := range resetDesigns {
			for _, to := range []*[]time.Duration{&busy[i], &slept[i]} {
				if to == &slept[i] {
					<-pause.C
				}
				took, err := resetFlight(ctx, conn, tenant, d.send)
				if err != nil {
					return fmt.Errorf("reset design %q: %w", d.name, err)
				}
				*to = append(*to, took)
				pause.Reset(resetPause)
			}
		}
	}
	fmt.Fprintf(out, "\nwhat a change of tenants adds to a point read (one flight, median of %d)\n", resetRounds)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "  reset\tµs\tadded\tµs after 1 ms of sleep\tadded\n")
	for i, d := range resetDesigns {
		b, s := middle(busy[i]), middle(slept[i])
		fmt.Fprintf(table, "  %s\t%.1f\t%+.1f\t%.1f\t%+.1f\n", d.name, b, b-middle(busy[0]), s, s-middle(slept[0]))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return profileReset(ctx, out, conn, tenant)
}

const resetRepeats = 10

// profileReset prints what each command of the driver's reset takes by itself, ten of it in one flight, and what the whole
// takes on connections where an ORM has left its prepared statements: the look for forged ones goes through all of them.
func profileReset(ctx context.Context, out io.Writer, conn *pgconn.PgConn, tenant string) error {
	whole := make([]int, len(backend.ResetSQL))
	commands := map[string][]int{"begin … commit": {0, len(whole) - 1}}
	for i := range whole {
		whole[i] = i
		if i > 0 && i < len(whole)-1 {
			text, _, _ := strings.Cut(backend.ResetSQL[i], ",")
			commands[text] = []int{i}
		}
	}
	fmt.Fprintf(out, "\nof this, each command by itself (a %dth of %d of it)\n", resetRepeats, resetRepeats)
	if err := printCommands(ctx, out, conn, tenant, commands); err != nil {
		return err
	}
	prepared := 0
	for _, n := range []int{0, 100, 500} {
		for ; prepared < n; prepared++ {
			if _, err := conn.Prepare(ctx, fmt.Sprintf("orm%d", prepared), readSQL, nil); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("the whole, %d statements prepared", n)
		if err := printCommands(ctx, out, conn, tenant, map[string][]int{name: whole}); err != nil {
			return err
		}
	}
	return nil
}

func printCommands(ctx context.Context, out io.Writer, conn *pgconn.PgConn, tenant string, commands map[string][]int) error {
	took := map[string][]time.Duration{}
	for range resetRounds / 2 {
		for name, numbers := range commands {
			one, err := resetFlight(ctx, conn, tenant, func(*pgconn.Pipeline) {})
			if err != nil {
				return err
			}
			all, err := resetFlight(ctx, conn, tenant, func(p *pgconn.Pipeline) {
				for range resetRepeats {
					for _, i := range numbers {
						p.SendQueryPrepared(resetName(i), nil, nil, nil)
					}
				}
			})
			if err != nil {
				return err
			}
			took[name] = append(took[name], (all-one)/resetRepeats)
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, name := range slices.SortedFunc(maps.Keys(took), func(a, b string) int { return cmp.Compare(middle(took[b]), middle(took[a])) }) {
		fmt.Fprintf(table, "  %s\t%.1f µs\n", name, middle(took[name]))
	}
	return table.Flush()
}

// resetFlight sends reset, prologue and read in one write and waits for the last answer.
func resetFlight(ctx context.Context, conn *pgconn.PgConn, tenant string, send func(*pgconn.Pipeline)) (time.Duration, error) {
	start := time.Now()
	p := conn.StartPipeline(ctx)
	send(p)
	p.SendQueryPrepared("tenant", [][]byte{[]byte(tenant)}, nil, nil)
	p.SendQueryPrepared("read", [][]byte{[]byte("1")}, nil, nil)
	if err := p.Sync(); err != nil {
		return 0, err
	}
	err := p.Close()
	return time.Since(start), err
}

// middle is the median in microseconds. It sorts in place.
func middle(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1e3
}
