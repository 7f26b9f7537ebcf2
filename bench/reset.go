package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/rls"
)

// design is a way to send what flies in front of a read.
type design struct {
	name string
	send func(m messages)
}

// messages are those of one flight. Like the driver, and unlike pgconn.Pipeline, they ask for no description of what comes back.
type messages struct{ *pgproto3.Frontend }

func (m messages) named(name string, values ...[]byte) {
	m.SendBind(&pgproto3.Bind{PreparedStatement: name, Parameters: values})
	m.SendExecute(&pgproto3.Execute{})
}

func (m messages) parsed(text string, values ...[]byte) {
	m.SendParse(&pgproto3.Parse{Query: text})
	m.named("", values...)
}

// The reset is what a statement pays for when its connection served another tenant before. These are the ways to send it
// that were thought of, side by side, each in one flight with the prologue and a point read behind it.
func resetDesigns(tenant []byte) []design {
	all := func(m messages, query func()) {
		for i, text := range backend.ResetSQL {
			if text == "discard sequences" {
				query()
			}
			m.named(resetName(i))
		}
	}
	prologue := func(m messages) { m.named("tenant", tenant) }
	return []design{
		{"none: the tenant comes again", prologue},
		{"named statements, sealed, the query in the prologue (the driver's)", func(m messages) {
			all(m, func() {})
			m.named("attested tenant", tenant)
		}},
		{"the same, not sealed by BEGIN and COMMIT", func(m messages) {
			for i := 1; i < len(backend.ResetSQL)-1; i++ {
				m.named(resetName(i))
			}
			m.named("attested tenant", tenant)
		}},
		{"the same, sealed, without its query", func(m messages) {
			all(m, func() {})
			prologue(m)
		}},
		{"the query a command of its own", func(m messages) {
			all(m, func() { m.named("attest") })
			prologue(m)
		}},
		{"the same, login and role set back instead of looked at", func(m messages) {
			all(m, func() {
				m.named("authorization")
				m.named("role")
				m.named("attest")
			})
			prologue(m)
		}},
		{"the query a command of its own, parsed anew (after what is not plain)", func(m messages) {
			all(m, func() { m.parsed(attest) })
			prologue(m)
		}},
		{"parsed each time (behind a pooler)", func(m messages) {
			for _, text := range backend.ResetSQL {
				if text == "discard sequences" {
					m.parsed(attest)
				}
				m.parsed(text)
			}
			m.parsed(setLocal, tenant)
		}},
	}
}

const attest = "select where " + backend.AttestSQL

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
	prepare := map[string]string{
		"tenant": rls.SQL(rls.Tenant, tenantSetting, false, false), "read": readSQL, "authorization": "set session authorization default", "role": "set role none",
		"attest": attest, "attested tenant": rls.SQL(rls.Tenant, tenantSetting, false, false, backend.AttestSQL),
	}
	for i, text := range backend.ResetSQL {
		prepare[resetName(i)] = text
	}
	for name, text := range prepare {
		if _, err := conn.Prepare(ctx, name, text, nil); err != nil {
			return err
		}
	}
	err = compare(ctx, out, "what a change of tenants adds to a point read", "reset", resetDesigns([]byte(tenant)), func(d design) (time.Duration, error) {
		return resetFlight(ctx, conn, d.send)
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
	order := rand.New(rand.NewPCG(1, 2)) // which one came before decides what the caches hold
	for range resetRounds {
		for _, i := range order.Perm(len(designs)) {
			d := designs[i]
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
	last := len(backend.ResetSQL) - 1
	commands := map[string][]string{"begin … commit": {resetName(0), resetName(last)}, "the query": {"attest"}}
	whole := []string{"attest"}
	for i, text := range backend.ResetSQL {
		whole = append(whole, resetName(i))
		if i > 0 && i < last {
			commands[text] = []string{resetName(i)}
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
		if err := printCommands(ctx, out, conn, tenant, map[string][]string{name: whole}); err != nil {
			return err
		}
	}
	return nil
}

func printCommands(ctx context.Context, out io.Writer, conn *pgconn.PgConn, tenant string, commands map[string][]string) error {
	took := map[string][]time.Duration{}
	for range resetRounds / 2 {
		for name, statements := range commands {
			prologue := func(m messages) { m.named("tenant", []byte(tenant)) }
			one, err := resetFlight(ctx, conn, prologue)
			if err != nil {
				return err
			}
			all, err := resetFlight(ctx, conn, func(m messages) {
				for range resetRepeats {
					for _, statement := range statements {
						m.named(statement)
					}
				}
				prologue(m)
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
func resetFlight(ctx context.Context, conn *pgconn.PgConn, send func(messages)) (time.Duration, error) {
	return flight(ctx, conn, func(m messages) {
		send(m)
		sendRead(m)
	})
}

func sendRead(m messages) { m.named("read", []byte("1")) }

// flight takes as long as the server does: the connection has the context's deadline, if there is one.
func flight(ctx context.Context, conn *pgconn.PgConn, send func(messages)) (time.Duration, error) {
	deadline, _ := ctx.Deadline()
	if err := conn.Conn().SetDeadline(deadline); err != nil {
		return 0, err
	}
	start := time.Now()
	m := messages{conn.Frontend()}
	send(m)
	m.SendSync(&pgproto3.Sync{})
	if err := m.Flush(); err != nil {
		return 0, err
	}
	for {
		switch answer, err := m.Receive(); answer := answer.(type) {
		case *pgproto3.ErrorResponse:
			return 0, pgconn.ErrorResponseToPgError(answer)
		case *pgproto3.ReadyForQuery:
			return time.Since(start), nil
		default:
			if err != nil {
				return 0, err
			}
		}
	}
}

// middle is the median in microseconds. It sorts in place.
func middle(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1e3
}
