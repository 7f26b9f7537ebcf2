package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"github.com/sharded-pg/sharded-pg/registry"
)

type top struct {
	Interval time.Duration `default:"2s" placeholder:"2s" help:"How long to look before each table."`
	Once     bool          `help:"One table, and no more."`
	Shard    []string      `placeholder:"NAME" help:"Only these shards; may be repeated. Default: all."`
	Rows     int           `short:"n" default:"20" placeholder:"20" help:"How many lines, those with the most load."`
}

// Validate is called by kong.
func (c *top) Validate() error {
	switch {
	case c.Interval < 200*time.Millisecond || c.Interval > time.Hour:
		return fmt.Errorf("--interval is %v: use 200ms to 1h", c.Interval)
	case c.Rows < 1:
		return fmt.Errorf("-n is %d: use at least 1", c.Rows)
	}
	return nil
}

// busy is one table, and one document in JSON.
type busy struct {
	At      time.Time   `json:"at"`
	Seconds float64     `json:"seconds"` // that it is about
	Shards  []shardLoad `json:"shards"`
	Tenants []*load     `json:"tenants"`
}

func (c *top) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		samplers, shards, err := c.samplers(ctx, reg)
		if err != nil {
			return err
		}
		defer func() {
			for _, s := range samplers {
				s.close(ctx)
			}
		}()
		screen := a.screen(!c.Once)
		defer screen.leave()
		for {
			next := time.After(c.Interval)
			table := c.look(ctx, samplers, shards)
			switch {
			case ctx.Err() != nil && c.Once:
				return errors.New("interrupted: nothing was shown")
			case ctx.Err() != nil:
				return nil // Ctrl-C is how it ends
			}
			if err := screen.draw(func(a *app, lines, columns int) error {
				return a.show(table, func() { a.busy(table, lines, columns) })
			}); err != nil {
				return err
			}
			if !c.Once { // shards that refuse connections are asked again in their time
				select {
				case <-next:
				case <-ctx.Done():
				}
				continue
			}
			if slices.ContainsFunc(table.Shards, func(s shardLoad) bool { return s.Problem != "" }) {
				return errReported
			}
			return nil
		}
	})
}

// samplers has one for each shard, or else why there is none.
func (c *top) samplers(ctx context.Context, reg *registry.Postgres) (samplers []*sampler, broken []shardLoad, err error) {
	for _, name := range c.Shard {
		if _, err := findShard(ctx, reg, name); err != nil {
			return nil, nil, err
		}
	}
	all, err := reg.ListShards(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range all {
		if len(c.Shard) > 0 && !slices.Contains(c.Shard, s.Name) {
			continue
		}
		server, err := newServer(ctx, reg, s.Name)
		if err != nil {
			broken = append(broken, shardLoad{Shard: s.Name, Problem: speak(err.Error())})
			continue
		}
		samplers = append(samplers, &sampler{server: server})
	}
	if len(all) == 0 {
		return nil, nil, errors.New("the registry has no shards: add one with shardedpg shard add")
	}
	return samplers, broken, nil
}

// look asks all shards at once. One that does not answer keeps the others waiting for a moment only.
func (c *top) look(ctx context.Context, samplers []*sampler, broken []shardLoad) busy {
	begin := time.Now()
	results := make([]shardLoad, len(samplers))
	var wg sync.WaitGroup
	for i, s := range samplers {
		wg.Go(func() { results[i] = s.sample(ctx, c.Interval) })
	}
	wg.Wait()
	table := busy{At: time.Now().UTC(), Seconds: time.Since(begin).Seconds(), Shards: append(results, broken...), Tenants: []*load{}}
	for _, s := range results {
		table.Tenants = append(table.Tenants, s.rows...)
	}
	slices.SortFunc(table.Shards, func(a, b shardLoad) int { return cmp.Compare(a.Shard, b.Shard) })
	slices.SortFunc(table.Tenants, func(a, b *load) int {
		return cmp.Or(cmp.Compare(b.Load, a.Load), cmp.Compare(b.Idle, a.Idle), cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Tenant, b.Tenant))
	})
	if len(table.Tenants) > c.Rows {
		table.Tenants = table.Tenants[:c.Rows]
	}
	return table
}

// busy prints a table on so many lines and columns.
func (a *app) busy(b busy, lines, columns int) {
	total, samples := 0.0, 0
	var below []string
	for _, s := range b.Shards {
		total += s.Load
		samples = max(samples, s.Samples)
		if s.Problem != "" {
			below = append(below, fmt.Sprintf("shard %q: %s", s.Shard, s.Problem))
		}
	}
	if slices.ContainsFunc(b.Tenants, func(l *load) bool { return l.unmarked }) {
		below = append(below, "(untagged): programs open the registry without sharded_tag=on, so the server does not know their tenants")
	}
	if whole := wrapped(below, columns); len(whole) <= lines/2 { // the reason is at the end
		below = whole
	}
	if room := max(lines-headings-1, 1); len(below) > room { // one tenant at least
		below = append(below[:room-1], fmt.Sprintf("and %d lines more: shardedpg top --once", len(below)-room+1))
	}
	a.say("%s  load %.2f on %s, %s in %.1fs", when(b.At), total, count(len(b.Shards), "shard"), count(samples, "sample"), b.Seconds)
	header := []string{"SHARD", "TENANT", "LOAD", "RUN", "IO", "LOCK", "OTHER", "NOW", "OLDEST", "IDLE IN TX", "BLOCKED BY"}
	var rows [][]string
	for _, l := range b.Tenants[:min(max(lines-headings-len(below), 1), len(b.Tenants))] {
		rows = append(rows, []string{
			l.Shard, l.name(), average(l.Load), average(l.Running), average(l.IO), average(l.Lock), average(l.Other),
			strconv.Itoa(l.Active), since(min(l.Active, 1), l.Oldest), since(l.IdleInTx, l.Idle), strings.Join(l.BlockedBy, ", "),
		})
	}
	fit(header, rows, columns)
	a.table(header, rows)
	for _, line := range below {
		a.say("%s", line)
	}
}

func wrapped(lines []string, columns int) (all []string) {
	for _, line := range lines {
		for part := range strings.SplitSeq(text.WrapSoft(line, columns), "\n") {
			all = append(all, strings.TrimRight(part, " "))
		}
	}
	return all
}

// fit cuts the names of tenants, the second cells, where they would push the numbers behind them off the screen. A UUID stays whole:
// it is what the next command needs. Of what they wait for, at the end, as much is seen as there is room.
func fit(header []string, rows [][]string, columns int) {
	const shortest = 36
	others, longest := 0, 0
	for i, name := range header {
		width := text.StringWidth(name)
		for _, row := range rows {
			if i < len(header)-1 {
				width = max(width, text.StringWidth(clean(row[i])))
			}
		}
		if i == 1 {
			longest, width = width, 0
		}
		others += width + 2
	}
	if room := max(columns-others, shortest); room < longest {
		for _, row := range rows {
			if name := clean(row[1]); text.StringWidth(name) > room {
				row[1] = text.Trim(name, room-1) + "…"
			}
		}
	}
}

func (l *load) name() string {
	if l.Kind == ofTenant {
		return l.Tenant
	}
	return "(" + l.Kind + ")"
}

func average(sessions float64) string { return strconv.FormatFloat(sessions, 'f', 2, 64) }

// since writes how long the oldest of n has been so.
func since(n int, seconds float64) string {
	if n == 0 {
		return ""
	}
	precision := time.Second
	if seconds < 10 {
		precision = 10 * time.Millisecond
	}
	text := time.Duration(seconds * float64(time.Second)).Round(precision).String()
	if n > 1 {
		text = strconv.Itoa(n) + ", " + text
	}
	return text
}

// screen is where tables are drawn: each in place of the one before on a terminal, one after the other elsewhere.
type screen struct {
	a       *app
	entered bool
	last    strings.Builder
}

const (
	enterScreen = "\x1b[?1049h\x1b[?7l\x1b[?25l" // another screen, lines that are cut and not broken, no cursor
	leaveScreen = "\x1b[?25h\x1b[?7h\x1b[?1049l"
	clearScreen = "\x1b[H\x1b[J"
	headings    = 2 // lines above the tenants
)

func (a *app) screen(redraws bool) *screen {
	s := &screen{a: a}
	if redraws && a.screens && !a.json {
		s.entered = true
		neverStop()
		fmt.Fprint(a.out, enterScreen+clearScreen+"looking at the servers ...\n")
	}
	return s
}

// draw shows what print prints, in one write, on as many lines and columns as there are.
func (s *screen) draw(print func(a *app, lines, columns int) error) error {
	lines, columns := 1<<30, 1<<30
	if !s.entered {
		return print(s.a, lines, columns)
	}
	if width, rows, err := term.GetSize(int(os.Stdout.Fd())); err == nil && width > 0 {
		lines, columns = rows-1, width // the cursor stands below
	}
	s.last.Reset()
	buffered := *s.a
	buffered.out = &s.last
	if err := print(&buffered, lines, columns); err != nil {
		return err
	}
	_, err := fmt.Fprint(s.a.out, clearScreen+s.last.String())
	return err
}

// leave gives the terminal back as it was, with the last table on it.
func (s *screen) leave() {
	if s.entered {
		fmt.Fprint(s.a.out, text.EscapeReset+leaveScreen+s.last.String())
	}
}
