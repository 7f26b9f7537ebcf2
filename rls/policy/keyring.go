package policy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls"
)

// signed plans what the policies of signed tenants call, and refuses to make policies that nobody could pass.
func (p *planner) signed(s identityState) {
	p.role(p.KeyOwner, "nologin", false)
	for _, c := range p.identity(s) {
		p.add(c)
	}
	if s.count == 0 {
		p.problem("no key is installed, so that no tenant could be verified: run shardedpg rls keys install first, and let programs sign")
	}
}

// KeyState is what a database knows of signed tenants.
type KeyState struct {
	Keys   []InstalledKey `json:"keys"`   // in the order of their installation
	Signed int            `json:"signed"` // tables whose policies take the tenant from a token
	Plain  int            `json:"plain"`  // tables with policies of the generator that do not
}

// InstalledKey is a key that a database verifies tokens with.
type InstalledKey struct {
	ID   string    `json:"id"`
	Name string    `json:"name"` // with its fingerprint: see [rls.ShardKey.Name]
	At   time.Time `json:"installed_at"`
}

// ReadKeys returns the keys of a database. Without any, and where nothing was ever installed, there are none.
func ReadKeys(ctx context.Context, conn *pgx.Conn, c Config) (*KeyState, error) {
	tx, err := begin(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("rls: reading keys: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	state, err := readKeys(ctx, tx, c.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("rls: reading keys: %w", err)
	}
	return state, nil
}

func readKeys(ctx context.Context, tx pgx.Tx, c Config) (*KeyState, error) {
	state := &KeyState{Keys: []InstalledKey{}}
	if _, err := lookAtRecords(ctx, tx, c.App); err != nil {
		return nil, err
	}
	s, err := readIdentity(ctx, tx, c)
	if err != nil {
		return nil, err
	}
	if s.count < 0 {
		return nil, fmt.Errorf("%s is not as it must be, or the login may not read it: %s", keyTable, s.table)
	}
	if s.table != "" {
		if err := each(ctx, tx, func(k InstalledKey) { state.Keys = append(state.Keys, k) },
			`select kid, kid || ':' || left(encode(sha256('shardedpg fingerprint'::bytea || ipad), 'hex'), 16), installed_at from `+keyTable+` order by 3, 1`); err != nil {
			return nil, err
		}
	}
	return state, tx.QueryRow(ctx, `select count(*) filter (where signed), count(*) filter (where not signed) from (
  select exists (select from pg_depend d join pg_proc f on f.oid = d.refobjid
                  where d.classid = 'pg_policy'::regclass and d.objid = y.oid and d.refclassid = 'pg_proc'::regclass
                    and f.proname = 'current_tenant' and f.pronamespace::regnamespace::text = $1) as signed
    from pg_policy y where y.polname = $2) p`, RecordSchema, guardPolicy).Scan(&state.Signed, &state.Plain)
}

// InstallKeys makes a database verify tokens of these keys, too, and makes what verifies them where it is missing. It leaves
// policies as they are. It returns the IDs of those that were not there before.
func InstallKeys(ctx context.Context, conn *pgx.Conn, c Config, keys []*rls.ShardKey, opts *ApplyOptions) (installed []string, err error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("rls: %w", err)
	}
	err = change(ctx, conn, "installing keys", opts.withDefaults(), func(tx pgx.Tx, _ ApplyOptions) error {
		if err := prepareIdentity(ctx, tx, c); err != nil {
			return err
		}
		before, err := readKeys(ctx, tx, c)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, key := range keys {
			i := slices.IndexFunc(before.Keys, func(k InstalledKey) bool { return k.ID == key.ID })
			if i >= 0 && before.Keys[i].Name != key.Name() {
				return fmt.Errorf("another key is installed as %q: it is of another key file, or of a shard that had another name", key.ID)
			}
			if i < 0 {
				inner, outer := key.Pads()
				rows, installed = append(rows, []any{key.ID, inner, outer}), append(installed, key.ID)
			}
		}
		// By COPY, because the server may write parameters into its log, and no rows of a COPY.
		_, err = tx.CopyFrom(ctx, pgx.Identifier{RecordSchema, "ctx_key"}, []string{"kid", "ipad", "opad"}, pgx.CopyFromRows(rows))
		return err
	})
	if err != nil {
		return nil, err
	}
	return installed, nil
}

// prepareIdentity makes what verifies tokens, and looks whether it is as it must be.
func prepareIdentity(ctx context.Context, tx pgx.Tx, c Config) error {
	if _, err := lookAtRecords(ctx, tx, c.App); err != nil {
		return err
	}
	cluster, err := readCluster(ctx, tx, c)
	if err != nil {
		return err
	}
	p := &planner{Config: c, catalog: &catalog{cluster: cluster}, plan: &Plan{}}
	for role, attributes := range map[string]string{c.App: "login", c.Owner: "nologin", c.Maintenance: "nologin bypassrls"} {
		if _, there := cluster.roles[role]; !there {
			p.role(role, attributes, role == c.Maintenance)
		}
	}
	p.role(c.KeyOwner, "nologin", false)
	s, err := readIdentity(ctx, tx, c)
	if err != nil {
		return err
	}
	for _, change := range p.identity(s) {
		p.add(change)
	}
	for _, change := range p.plan.Drift() {
		if err := run(ctx, tx, change.Object, change.Property, change.Do); err != nil {
			return err
		}
	}
	if s, err = readIdentity(ctx, tx, c); err != nil {
		return err
	}
	left := (&Plan{Changes: p.identity(s)}).Drift()
	if len(left) > 0 {
		return fmt.Errorf("the server did not make all changes (is the login a superuser?), and nothing was changed:\n%s", Diff(left))
	}
	_, err = lookAtRecords(ctx, tx, c.App)
	return err
}

// RemoveKey makes a database refuse tokens of a key. It refuses to take the last one while policies need it.
func RemoveKey(ctx context.Context, conn *pgx.Conn, c Config, id string, opts *ApplyOptions) (removed bool, err error) {
	c = c.withDefaults()
	err = change(ctx, conn, "removing a key", opts.withDefaults(), func(tx pgx.Tx, _ ApplyOptions) error {
		state, err := readKeys(ctx, tx, c)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(state.Keys, func(k InstalledKey) bool { return k.ID == id }) {
			return nil
		}
		if len(state.Keys) == 1 && state.Signed > 0 {
			return fmt.Errorf("%q is the only key, and %d tables would show nothing to anybody: install another one first", id, state.Signed)
		}
		_, err = tx.Exec(ctx, "delete from "+keyTable+" where kid = $1", id)
		removed = err == nil
		return err
	})
	return removed, err
}
