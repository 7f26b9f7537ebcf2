package main

import (
	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls/policy"
)

type rlsHarden struct {
	databases
	declared
	carefully
}

func (c *rlsHarden) Run(a *app) error {
	if err := c.check("harden"); err != nil {
		return err
	}
	targets, err := c.targets(a, true)
	if err != nil {
		return err
	}
	type shown struct {
		Shard    string `json:"shard,omitempty"`
		Database string `json:"database"`
		*policy.Hardened
	}
	var done []shown
	var failed error
	for _, t := range targets {
		if failed = t.on(a.ctx, func(conn *pgx.Conn) error {
			config, err := c.config(a.ctx, conn, t)
			if err != nil {
				return err
			}
			hardened, err := policy.Harden(a.ctx, conn, config, c.DryRun, c.options())
			if err == nil {
				done = append(done, shown{t.shard, t.database, hardened})
			}
			return err
		}); failed != nil {
			break
		}
	}
	refused := false
	for _, d := range done {
		refused = refused || refusedOf(d.Hardened) > 0
	}
	if failed == nil || len(done) > 0 {
		if err := a.show(map[string]any{"dry_run": c.DryRun, "databases": done}, func() {
			for i, d := range done {
				a.hardened(targets[i], d.Hardened, c.DryRun)
			}
		}); err != nil {
			return err
		}
	}
	if failed == nil && refused {
		return errReported
	}
	return failed
}

func (a *app) hardened(t target, h *policy.Hardened, dryRun bool) {
	for _, right := range h.Rights {
		switch {
		case dryRun:
			a.say("would take away: %s", right.Object)
		case right.Refused != "":
			a.say("refused:         %s: %s", right.Object, right.Refused)
		default:
			a.say("taken away:      %s", right.Object)
		}
	}
	refused := refusedOf(h)
	switch {
	case len(h.Rights) == 0:
		a.say("%s: as hard as it can be; nothing to take away", t)
	case dryRun:
		a.say("%s: %s; dry run, nothing was changed", t, count(len(h.Rights), "right"))
	case h.Record == 0:
		a.say("%s: none taken away, %d refused", t, refused)
	default:
		a.say("%s: %d taken away, %d refused, record %d", t, len(h.Rights)-refused, refused, h.Record)
	}
}

func refusedOf(h *policy.Hardened) (n int) {
	for _, right := range h.Rights {
		if right.Refused != "" {
			n++
		}
	}
	return n
}
