package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Hardened is what Harden did, or would do.
type Hardened struct {
	Record int64           `json:"record,omitempty"` // 0: nothing was changed
	Rights []HardenedRight `json:"rights"`
}

// HardenedRight is one right that everybody has by default and that reaches across tenants.
type HardenedRight struct {
	Object  string `json:"object"`            // "function pg_notify(text,text)", "language plpgsql"
	Refused string `json:"refused,omitempty"` // why it is still everybody's
}

// harden is a right to take away.
type harden struct {
	object, on string
	privilege  string
}

func (h harden) change() Change {
	return Change{
		Object: h.object, Property: "everybody's right", Was: h.privilege,
		Do: []string{"revoke " + h.privilege + " on " + h.on + " from public"}, Undo: []string{"grant " + h.privilege + " on " + h.on + " to public"},
	}
}

func (s *clusterState) hardens() (all []harden) {
	for _, f := range s.functions {
		all = append(all, harden{"function " + f.Signature, "function pg_catalog." + f.Signature, "execute"})
	}
	for _, l := range slices.Sorted(slices.Values(s.languages)) {
		all = append(all, harden{"language " + l, "language " + ident(l), "usage"})
	}
	return all
}

// Harden takes what [Config] calls the lock-down from PUBLIC, as far as the server lets this login, and gives back what driver,
// migrations and dumps call. Unlike Apply it goes on where it is refused, and says what. A Rollback takes it back. With
// dryRun it says what it would take.
//
// Managed servers have owners of built-in functions whom nobody can become. PostgreSQL only warns of rights that it did not
// take away, so each one is looked for in the catalog again.
func Harden(ctx context.Context, conn *pgx.Conn, c Config, dryRun bool, opts *ApplyOptions) (*Hardened, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("rls: %w", err)
	}
	result := &Hardened{Rights: []HardenedRight{}}
	err := change(ctx, conn, "harden", opts.withDefaults(), func(tx pgx.Tx, o ApplyOptions) error {
		if _, err := lookAtRecords(ctx, tx, c.App); err != nil {
			return err
		}
		before, err := readCluster(ctx, tx, c)
		if err != nil {
			return err
		}
		if err := have(before, c.App, c.Owner, c.Maintenance); err != nil {
			return err
		}
		taken := before.hardens()
		for _, h := range taken {
			result.Rights = append(result.Rights, HardenedRight{Object: h.object})
		}
		if dryRun || len(taken) == 0 {
			return nil
		}
		give := c.giveBack()
		for _, role := range before.becomes {
			give.Do = append(give.Do, grantSetConfig(role))
		}
		if err := run(ctx, tx, give.Object, give.Property, give.Do); err != nil {
			return err
		}
		for i, h := range taken {
			if err := pgx.BeginFunc(ctx, tx, func(part pgx.Tx) error { return run(ctx, part, h.object, "rights", h.change().Do) }); err != nil {
				result.Rights[i].Refused = err.Error()
			}
		}
		after, err := readCluster(ctx, tx, c)
		if err != nil {
			return err
		}
		left := after.hardens()
		if err := drives(ctx, tx, c.App); err != nil {
			return err
		}
		done := []Change{give}
		for i, h := range taken {
			switch {
			case !slices.Contains(left, h):
				done = append(done, h.change())
			case result.Rights[i].Refused == "":
				result.Rights[i].Refused = "the server keeps it: only the owner of what is built in, or a superuser, may take it away"
			}
		}
		if len(done) == 1 {
			return nil
		}
		if len(left) == 0 {
			c.Lockdown = true
		}
		result.Record, err = keep(ctx, tx, record{Action: "apply", Note: o.Note, Config: c, Changes: done})
		return err
	})
	return result, err
}

// drives returns an error when the driver's role could not work any more.
func drives(ctx context.Context, tx pgx.Tx, app string) error {
	var lost string
	err := tx.QueryRow(ctx, `select coalesce(string_agg(f, ', '), '') from unnest($2::text[]) f where not has_function_privilege($1, 'pg_catalog.' || f, 'execute')`,
		app, driverNeeds).Scan(&lost)
	if err == nil && lost != "" {
		err = fmt.Errorf("the server gave %s no right to call %s, and the driver needs it; nothing was changed", app, lost)
	}
	return err
}

// have returns an error for roles that are not there: rights are given back to them.
func have(s clusterState, names ...string) error {
	for _, name := range names {
		if _, there := s.roles[name]; !there {
			return fmt.Errorf("there is no role %q: run shardedpg rls apply first", name)
		}
	}
	return nil
}

// giveBack is what the driver's role, migrations and dumps go on to call.
func (c Config) giveBack() Change {
	give := Change{Object: "roles", Property: "rights of their own", Want: strings.Join(driverNeeds, ", ")}
	to := strings.Join([]string{ident(c.App), ident(c.Owner), ident(c.Maintenance)}, ", ")
	for _, f := range driverNeeds {
		give.Do = append(give.Do, "grant execute on function pg_catalog."+f+" to "+to)
	}
	for _, l := range []string{"plpgsql", "sql"} {
		give.Do = append(give.Do, "grant usage on language "+l+" to "+ident(c.Owner)+", "+ident(c.Maintenance))
	}
	return give
}
