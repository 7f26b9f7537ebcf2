package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
)

const planName = "verify"

// scene is a database with the two tenants on it, and the driver that they come through.
type scene struct {
	*catalog
	ids        [2]string // attacker, victim
	db         *sql.DB   // one connection, which both share
	admin      *pgx.Conn
	registered map[uint32]*[2]bool // tables of tenants in which a row was made for them
	privileged bool                // rows are made by the administrator
	schema     bool                // the two are of model schema
	sequence   string              // one of a table of tenants
	report     *Report
}

// tenants is a registry in memory that knows the two tenants and nobody else.
func (c *catalog) tenants(ctx context.Context, ids [2]string, model resolver.Model) (*registry.Memory, error) {
	m, err := registry.NewMemory(nil)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		m.PutShard(ctx, registry.Shard{Name: c.Shard, DSN: c.DSN, AdminDSN: c.AdminDSN}),
		m.PutPlan(ctx, registry.Plan{Name: planName, StatementTimeout: c.StatementTimeout, WorkMemKB: 4096, MaxConns: 1, Weight: 1}),
	)
	for i, id := range ids {
		t := registry.Tenant{ID: id, Shard: c.Shard, Database: c.Database, Model: model, Plan: planName, State: resolver.StateProvisioning}
		if model == resolver.ModelSchema {
			t.Schema, t.Role = c.schemas[i], c.roles[i]
		}
		err = errors.Join(err, m.PutTenant(ctx, t))
	}
	return m, err
}

// open makes a scene for tables whose tenants have these IDs, in a registry of their own.
func (c *catalog) open(ctx context.Context, admin *pgx.Conn, ids [2]string, store *registry.Memory, report *Report) (*scene, func(), error) {
	for _, id := range ids {
		if err := store.SetTenantState(ctx, id, resolver.StateActive); err != nil {
			return nil, nil, err
		}
	}
	cfg := shardedpg.Config{}
	if c.Driver != nil {
		c.Driver(&cfg)
	}
	cfg.Store, cfg.DSN, cfg.GUC, cfg.MaxConns, cfg.TenantShare = store, "", c.GUC, 1, 1
	connector, err := shardedpg.NewConnector(cfg) //nolint:contextcheck // what it watches lives as long as it
	if err != nil {
		return nil, nil, err
	}
	s := &scene{
		catalog: c, ids: ids, db: sql.OpenDB(connector), admin: admin, registered: map[uint32]*[2]bool{}, report: report,
	}
	return s, func() { _ = s.db.Close() }, nil
}

// as is the context of a statement of the attacker (0) or the victim (1).
func (s *scene) as(ctx context.Context, who int) context.Context {
	return shardedpg.WithTenant(ctx, s.ids[who])
}

// asTenant makes rows through the driver, or as the administrator where the tenant may not.
func (s *scene) asTenant(who int) inserter {
	return func(ctx context.Context, query string, args []any, columns int) ([]*string, error) {
		if s.privileged {
			return s.asAdmin(ctx, query, args, columns)
		}
		got, to := places(columns)
		err := s.db.QueryRowContext(s.as(ctx, who), query, args...).Scan(to...)
		return got, err
	}
}

func (s *scene) asAdmin(ctx context.Context, query string, args []any, columns int) ([]*string, error) {
	got, to := places(columns)
	err := s.admin.QueryRow(ctx, query, args...).Scan(to...)
	return got, err
}

func places(n int) (got []*string, to []any) {
	got = make([]*string, n)
	for i := range got {
		to = append(to, &got[i])
	}
	return got, to
}

// partition makes the partitions of two tenants, for tables that have one for each and none that takes the rows of others.
func (c *catalog) partition(ctx context.Context, ids [2]string) error {
	store, err := c.tenants(ctx, ids, resolver.ModelPartition)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	for _, id := range ids {
		if err := provision.Tenant(ctx, store.Admin, id, c.provisioning()); err != nil {
			return err
		}
	}
	return nil
}

func (c *catalog) provisioning() *provision.Options {
	return &provision.Options{TenantColumn: c.TenantColumn, GUC: c.GUC, Template: c.Template}
}

// purge destroys what was made for two tenants of a model.
func (c *catalog) purge(ctx context.Context, ids [2]string, model resolver.Model) error {
	store, err := c.tenants(ctx, ids, model)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	for _, id := range ids {
		if _, err := provision.Purge(ctx, store.Admin, id, id, c.provisioning()); err != nil {
			return err
		}
	}
	return nil
}

// pairs are the reserved IDs of all types of tenant columns, in order.
func (c *catalog) pairs() (pairs [][2]string) {
	for _, t := range c.tables {
		if a, b, ok := IDs(t.Type); ok && !c.alone(t) && !slices.Contains(pairs, [2]string{a, b}) {
			pairs = append(pairs, [2]string{a, b})
		}
	}
	return pairs
}

const (
	largeObjectMark = "shardedpg rls verify"
	objectsSQL      = `select objoid from pg_description where classoid = 'pg_largeobject'::regclass and description = '` + largeObjectMark + `'`
	partsSQL        = `select count(*) from pg_class c join pg_description d on d.objoid = c.oid and d.classoid = 'pg_class'::regclass and d.objsubid = 0
 where c.relispartition and d.description in ('sharded-pg: tenant ' || $1, 'sharded-pg: tenant ' || $2)`
)

// remove deletes all rows of the two tenants, and what else a run makes.
func (c *catalog) remove(ctx context.Context, admin *pgx.Conn) (removed, left []string, err error) {
	pairs := c.pairs()
	removed, left, err = c.removeRows(ctx, admin, func(id [2]string) []string { return id[:] })
	if err != nil {
		return nil, nil, err
	}
	var objects []uint32
	if err := each(ctx, admin, func(o struct{ OID uint32 }) { objects = append(objects, o.OID) }, objectsSQL); err != nil {
		return nil, nil, err
	}
	for _, oid := range objects {
		if _, err := admin.Exec(ctx, "select lo_unlink($1)", oid); err != nil {
			left = append(left, fmt.Sprintf("large object %d: %v", oid, short(err)))
			continue
		}
		removed = append(removed, fmt.Sprintf("large object %d", oid))
	}
	for _, ids := range pairs {
		var parts int
		if err := admin.QueryRow(ctx, partsSQL, ids[0], ids[1]).Scan(&parts); err != nil {
			return nil, nil, err
		}
		if parts == 0 {
			continue
		}
		if err := c.purge(ctx, ids, resolver.ModelPartition); err != nil {
			left = append(left, fmt.Sprintf("partitions: %v", err))
		} else {
			removed = append(removed, fmt.Sprintf("%d partitions", parts))
		}
	}
	var schemas int
	if err := admin.QueryRow(ctx, `select count(*) from pg_namespace where nspname in ($1, $2)`, c.schemas[0], c.schemas[1]).Scan(&schemas); err != nil {
		return nil, nil, err
	}
	if schemas > 0 {
		if err := c.purge(ctx, schemaIDs, resolver.ModelSchema); err != nil {
			left = append(left, fmt.Sprintf("schemas: %v", err))
		} else {
			removed = append(removed, fmt.Sprintf("%d schemas", schemas))
		}
	}
	return removed, left, nil
}

// removeRows deletes rows of the tenants that of chooses from each pair; those that others refer to go in a later pass.
func (c *catalog) removeRows(ctx context.Context, admin *pgx.Conn, of func(pair [2]string) []string) (removed, left []string, err error) {
	removed, left = []string{}, []string{}
	gone := map[string]int64{}
	var failed map[string]error
	for progress := true; progress; {
		progress, failed = false, map[string]error{}
		for _, d := range c.deletions() {
			a, b, ok := IDs(d.typ)
			if !ok {
				continue
			}
			tag, err := admin.Exec(ctx, "delete from "+d.table.ident()+" where "+ident(d.column)+" in ('"+strings.Join(of([2]string{a, b}), "', '")+"')")
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			if err != nil {
				failed[d.table.name()] = short(err)
			} else if n := tag.RowsAffected(); n > 0 {
				gone[d.table.name()] += n
				progress = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		removed = append(removed, fmt.Sprintf("rows of %s: %d", name, gone[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		left = append(left, fmt.Sprintf("%s: %v", name, failed[name]))
	}
	return removed, left, nil
}

// deletion is a table that may hold rows of the two tenants, the column that tells, and the type of their IDs.
type deletion struct {
	table       *table
	column, typ string
}

// deletions are the tables of tenants, and those in which a row stands for a tenant.
func (c *catalog) deletions() (all []deletion) {
	add := func(d deletion) {
		if !c.alone(d.table) && !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	for _, t := range c.tables {
		if t.Type != "" && t.Root == 0 {
			add(deletion{t, c.TenantColumn, t.Type})
		}
		for _, f := range t.foreign {
			if parent := c.byOID[f.Parent]; parent != nil && len(f.From) == 1 && f.From[0] == c.TenantColumn {
				add(deletion{parent, f.To[0], t.Type})
			}
		}
	}
	return all
}

// add notes the outcome of an attack.
func (s *scene) add(object, attack string, v verdict) {
	if v.outcome == "" {
		return // there is nothing to attack
	}
	s.report.Results = append(s.report.Results, Result{Object: object, Attack: attack, Outcome: v.outcome, Detail: strings.TrimSpace(v.detail)})
}
