package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrProblems: a plan has problems, so it is not applied. The text lists them.
var ErrProblems = errors.New("the plan has problems")

// ErrNothing: there is no record that a rollback could take back.
var ErrNothing = errors.New("nothing to roll back")

const (
	defaultLockTimeout = 5 * time.Second
	queueing           = 12 // lock timeouts that one apply waits for another
)

// ApplyOptions adjust [Apply] and [Rollback]. nil and the zero value mean the defaults.
type ApplyOptions struct {
	// LockTimeout is how long a change waits for a lock. Statements of tenants queue behind it meanwhile, so it is short.
	// Default 5s.
	LockTimeout time.Duration
	// Note is kept in the record: who asked for it, and why.
	Note string
}

func (o *ApplyOptions) withDefaults() ApplyOptions {
	var out ApplyOptions
	if o != nil {
		out = *o
	}
	if out.LockTimeout <= 0 {
		out.LockTimeout = defaultLockTimeout
	}
	return out
}

// Result is what Apply or Rollback did.
type Result struct {
	Record  int64    `json:"record,omitempty"` // 0: there was nothing to do
	Undoes  int64    `json:"undoes,omitempty"` // of a rollback: the record that it took back
	Changes []Change `json:"changes"`
	Left    []string `json:"left,omitempty"` // of a rollback: what it left as it is, and why
	Plan    *Plan    `json:"-"`              // of Apply
}

// Apply makes the database what the plan of the configuration says, in one transaction: all of it, or nothing. Before it
// commits it reads the catalog again, because PostgreSQL only warns of rights that it did not take away. Applying again
// changes nothing. Programs that apply at once wait for each other.
func Apply(ctx context.Context, conn *pgx.Conn, c Config, opts *ApplyOptions) (*Result, error) {
	if err := c.withDefaults().check(); err != nil {
		return nil, fmt.Errorf("rls: %w", err)
	}
	var result *Result
	err := change(ctx, conn, "apply", opts.withDefaults(), func(tx pgx.Tx, o ApplyOptions) error {
		if _, err := lookAtRecords(ctx, tx, c.App); err != nil {
			return err
		}
		plan, err := read(ctx, tx, c)
		if err != nil {
			return err
		}
		result = &Result{Plan: plan, Changes: plan.Drift()}
		if len(plan.Problems) > 0 {
			return fmt.Errorf("%w, and nothing was changed:\n  %s", ErrProblems, strings.Join(plan.Problems, "\n  "))
		}
		if len(result.Changes) == 0 {
			return nil
		}
		for _, c := range result.Changes {
			if err := run(ctx, tx, c.Object, c.Property, c.Do); err != nil {
				return err
			}
		}
		after, err := read(ctx, tx, c)
		if err != nil {
			return err
		}
		if left := after.Drift(); len(left) > 0 {
			return fmt.Errorf("the server did not make all changes (is the login a superuser, or the owner of everything?), and nothing was changed:\n%s", Diff(left))
		}
		result.Record, err = keep(ctx, tx, record{Action: "apply", Note: o.Note, Config: plan.Config, Changes: result.Changes})
		return err
	})
	if err != nil {
		return result, err
	}
	return result, nil
}

// Rollback takes the newest apply back that has not been taken back, in one transaction. Roles stay, because other
// databases may use them, and what belongs to a relation that is gone is left out.
func Rollback(ctx context.Context, conn *pgx.Conn, opts *ApplyOptions) (*Result, error) {
	var result *Result
	err := change(ctx, conn, "rollback", opts.withDefaults(), func(tx pgx.Tx, o ApplyOptions) error {
		last, err := newest(ctx, tx)
		if err != nil {
			return err
		}
		result = &Result{Undoes: last.ID, Changes: []Change{}}
		for i := len(last.Changes) - 1; i >= 0; i-- {
			c := last.Changes[i]
			back := Change{Object: c.Object, Property: c.Property, Was: c.Want, Want: c.Was, Do: c.Undo, Undo: c.Do, Relation: c.Relation, OID: c.OID}
			if len(c.Undo) == 0 {
				result.Left = append(result.Left, c.Object+": "+c.Property+": a rollback leaves it")
				continue
			}
			if why, err := vanished(ctx, tx, c); err != nil {
				return err
			} else if why != "" {
				result.Left = append(result.Left, c.Object+": "+c.Property+": "+why)
				continue
			}
			if err := run(ctx, tx, c.Object, c.Property, c.Undo); err != nil {
				return err
			}
			result.Changes = append(result.Changes, back)
		}
		result.Record, err = keep(ctx, tx, record{Action: "rollback", Undoes: &last.ID, Note: o.Note, Config: last.Config, Changes: result.Changes})
		return err
	})
	return result, err
}

// vanished says why a change cannot be taken back: what was renamed and made again is not what was changed.
func vanished(ctx context.Context, tx pgx.Tx, c Change) (why string, err error) {
	if c.Relation == "" {
		return "", nil
	}
	var now *uint32
	err = tx.QueryRow(ctx, `select to_regclass($1)::oid`, c.Relation).Scan(&now)
	switch {
	case err != nil:
	case now == nil:
		why = "it is gone"
	case c.OID != 0 && c.OID != *now:
		why = "another one has its name now"
	}
	return why, err
}

// change runs work in a transaction, while nobody else changes policies here.
func change(ctx context.Context, conn *pgx.Conn, stage string, o ApplyOptions, work func(tx pgx.Tx, o ApplyOptions) error) error {
	err := func() error {
		tx, err := begin(ctx, conn)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		// Another apply is worth waiting for, but anybody can take its lock, and keep it.
		if err := waitAtMost(ctx, tx, queueing*o.LockTimeout); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('sharded-pg rls', 0))`); err != nil {
			return fmt.Errorf("%w%s", err, next(err))
		}
		if err := waitAtMost(ctx, tx, o.LockTimeout); err != nil {
			return err
		}
		if err := work(tx, o); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}()
	if err != nil {
		return fmt.Errorf("rls: %s: %w", stage, err)
	}
	return nil
}

func waitAtMost(ctx context.Context, tx pgx.Tx, timeout time.Duration) error {
	_, err := tx.Exec(ctx, `select set_config('lock_timeout', $1, true)`, fmt.Sprintf("%dms", timeout.Milliseconds()))
	return err
}

// run runs the statements of one change. A text may be known to have no other meaning than the generator's.
func run(ctx context.Context, tx pgx.Tx, object, property string, statements []string) error {
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %s: %w%s; nothing was changed", object, property, err, next(err))
		}
	}
	return nil
}

// next says what to do about errors of PostgreSQL that are to be expected.
func next(err error) string {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return ""
	}
	switch answer.Code {
	case "55P03": // lock_not_available
		return ": others hold it for longer than the lock timeout; run again when they are done, or wait longer"
	case "23502": // not_null_violation
		return ": there are rows without a tenant; give them one or delete them"
	case "42501": // insufficient_privilege
		return ": the login must own it, or be a superuser"
	case "40P01", "40001":
		return ": run again"
	}
	return ""
}
