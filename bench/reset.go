package main

import (
	"cmp"
	"context"
	"errors"
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

// design is a way to send what flies in front of a read.
type design struct {
	name string
	send func(p *pgconn.Pipeline)
}

// The reset is what a statement pays for when its connection served another tenant before. These are the ways to send it
// that were thought of, side by side, each in one flight with the prologue and a point read behind it.
var resetDesigns = []design{
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
	err = compare(ctx, out, "what a change of tenants adds to a point read", "reset", resetDesigns, func(d design) (time.Duration, error) {
		return resetFlight(ctx, conn, tenant, d.send)
	})
	if err != nil {
		return err
	}
	return profileReset(ctx, out, conn, tenant)
}

// compare prints what each design adds to the first.
func compare(ctx context.Context, out io.Writer, title, head string, designs []design, fly func(design) (time.Duration, error)) error {
	busy := make([][]time.Duration, len(designs))
	slept := make([][]time.Duration, len(designs))
	pause := time.NewTimer(0)
	for range resetRounds {
		for i, d := range designs {
			for _, to := range []*[]time.Duration{&busy[i], &slept[i]} {
				if to == &slept[i] {
					<-pause.C
				}
				took, err := fly(d)
				if err != nil {
					return fmt.Errorf("%s, %q: %w", head, d.name, errors.Join(err, ctx.Err()))
				}
				*to = append(*to, took)
				pause.Reset(resetPause)
			}
		}
	}
	fmt.Fprintf(out, "\n%s (one flight, median of %d)\n", title, resetRounds)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "  %s\tµs\tadded\tµs after 1 ms of sleep\tadded\n", head)
	for i, d := range designs {
		b, s := middle(busy[i]), middle(slept[i])
		fmt.Fprintf(table, "  %s\t%.1f\t%+.1f\t%.1f\t%+.1f\n", d.name, b, b-middle(busy[0]), s, s-middle(slept[0]))
	}
	return table.Flush()
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
	return flight(ctx, conn, func(p *pgconn.Pipeline) {
		send(p)
		p.SendQueryPrepared("tenant", [][]byte{[]byte(tenant)}, nil, nil)
		sendRead(p)
	})
}

func sendRead(p *pgconn.Pipeline) { p.SendQueryPrepared("read", [][]byte{[]byte("1")}, nil, nil) }

func flight(ctx context.Context, conn *pgconn.PgConn, send func(*pgconn.Pipeline)) (time.Duration, error) {
	start := time.Now()
	p := conn.StartPipeline(ctx)
	send(p)
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
