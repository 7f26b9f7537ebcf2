package registry

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// tables is the backing of a [Postgres].
type tables struct{ p *Postgres }

const (
	shardColumns = `name, dsn, admin_dsn, region, labels::text, max_tenants, max_bytes, state`

	shardSQL  = `select ` + shardColumns + ` from {s}.shards where name = $1`
	shardsSQL = `select ` + shardColumns + ` from {s}.shards order by name collate "C"`

	insertShardSQL = `insert into {s}.shards (name, dsn, admin_dsn, region, labels, max_tenants, max_bytes, state)
values ($1, $2, $3, $4, $5::jsonb, $6, $7, $8) on conflict (name) do nothing`
	updateShardSQL = `update {s}.shards set dsn = $2, admin_dsn = $3, region = $4, labels = $5::jsonb, max_tenants = $6,
       max_bytes = $7, state = $8, updated_at = now() where name = $1`
	deleteShardSQL = `delete from {s}.shards where name = $1`
)

type shardRows struct{ *postgresTx }

func scanShard(row scanner) (s Shard, err error) {
	var labels string
	if err := row.Scan(&s.Name, &s.DSN, &s.AdminDSN, &s.Region, &labels, &s.MaxTenants, &s.MaxBytes, &s.State); err != nil {
		return s, err
	}
	s.Labels, err = labelsFromText(labels)
	return s, err
}

func (r shardRows) get(ctx context.Context, name string) (*Shard, error) {
	rows, err := r.query(ctx, shardSQL, name)
	return one(rows, err, scanShard)
}

func (r shardRows) all(ctx context.Context) ([]Shard, error) {
	rows, err := r.query(ctx, shardsSQL)
	return collect(rows, err, scanShard)
}

func (r shardRows) put(ctx context.Context, before, after *Shard) error {
	if after == nil {
		return r.exec(ctx, deleteShardSQL, before.Name)
	}
	labels, err := labelsText(after.Labels)
	if err != nil {
		return err
	}
	statement := updateShardSQL
	if before == nil {
		statement = insertShardSQL
	}
	return r.exec(ctx, statement, after.Name, after.DSN, after.AdminDSN, after.Region, labels, after.MaxTenants,
		after.MaxBytes, string(after.State))
}

const (
	planColumns = `name, statement_timeout_ms, work_mem_kb, max_conns, weight, rate, burst`

	planSQL  = `select ` + planColumns + ` from {s}.plans where name = $1`
	plansSQL = `select ` + planColumns + ` from {s}.plans order by name collate "C"`

	insertPlanSQL = `insert into {s}.plans (name, statement_timeout_ms, work_mem_kb, max_conns, weight, rate, burst)
values ($1, $2, $3, $4, $5, $6, $7) on conflict (name) do nothing`
	updatePlanSQL = `update {s}.plans set statement_timeout_ms = $2, work_mem_kb = $3, max_conns = $4, weight = $5, rate = $6,
       burst = $7, updated_at = now() where name = $1`
	deletePlanSQL = `delete from {s}.plans where name = $1`
)

type planRows struct{ *postgresTx }

func scanPlan(row scanner) (p Plan, err error) {
	var timeout *int64
	err = row.Scan(&p.Name, &timeout, &p.WorkMemKB, &p.MaxConns, &p.Weight, &p.Rate, &p.Burst)
	p.StatementTimeout = timeoutFromMillis(timeout)
	return p, err
}

func planArgs(plan Plan) []any {
	return []any{plan.Name, timeoutMillis(plan.StatementTimeout), plan.WorkMemKB, plan.MaxConns, plan.Weight, plan.Rate, plan.Burst}
}

func (r planRows) get(ctx context.Context, name string) (*Plan, error) {
	rows, err := r.query(ctx, planSQL, name)
	return one(rows, err, scanPlan)
}

func (r planRows) all(ctx context.Context) ([]Plan, error) {
	rows, err := r.query(ctx, plansSQL)
	return collect(rows, err, scanPlan)
}

func (r planRows) put(ctx context.Context, before, after *Plan) error {
	switch {
	case after == nil:
		return r.exec(ctx, deletePlanSQL, before.Name)
	case before == nil:
		return r.exec(ctx, insertPlanSQL, planArgs(*after)...)
	}
	return r.exec(ctx, updatePlanSQL, planArgs(*after)...)
}

const (
	tenantColumns = `id, shard, database, model, schema, role, plan, state, epoch, assignment, schema_version, slug,
       labels::text, coalesce(override::text, ''), coalesce(under_throttle::text, ''), removed_at, created_at, updated_at`

	tenantSQL = `select ` + tenantColumns + ` from {s}.tenants where id = $1 for update`

	tenantsSQL = `select ` + tenantColumns + ` from {s}.tenants order by id`

	// The row of another transaction that has just inserted the tenant was not visible to get.
	insertTenantSQL = `insert into {s}.tenants (id, shard, database, model, schema, role, plan, state, epoch, assignment,
       schema_version, slug, labels, override, override_until, under_throttle, removed_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::jsonb, $14::jsonb, $15, $16::jsonb, $17) on conflict (id) do nothing`
	updateTenantSQL = `update {s}.tenants set shard = $2, database = $3, model = $4, schema = $5, role = $6, plan = $7,
       state = $8, epoch = $9, assignment = $10, schema_version = $11, slug = $12, labels = $13::jsonb,
       override = $14::jsonb, override_until = $15, under_throttle = $16::jsonb, removed_at = $17, updated_at = now() where id = $1`
	deleteTenantSQL = `delete from {s}.tenants where id = $1`
)

type tenantRows struct{ *postgresTx }

func scanTenant(row scanner) (t TenantInfo, err error) {
	var labels, override, under string
	var removed *time.Time
	err = row.Scan(&t.ID, &t.Shard, &t.Database, &t.Model, &t.Schema, &t.Role, &t.Plan, &t.State, &t.Epoch, &t.Assignment,
		&t.SchemaVersion, &t.Slug, &labels, &override, &under, &removed, &t.Created, &t.Updated)
	if err != nil {
		return t, err
	}
	if removed != nil {
		t.Removed = removed.UTC()
	}
	if err := t.readOverrides(override, under); err != nil {
		return t, fmt.Errorf("tenant %q: %w", cut(t.ID), err)
	}
	t.Labels, err = labelsFromText(labels)
	return t, err
}

func (r tenantRows) get(ctx context.Context, id string) (*TenantInfo, error) {
	rows, err := r.query(ctx, tenantSQL, id)
	return one(rows, err, scanTenant)
}

func (r tenantRows) all(ctx context.Context) ([]TenantInfo, error) {
	rows, err := r.query(ctx, tenantsSQL)
	return collect(rows, err, scanTenant)
}

func (r tenantRows) put(ctx context.Context, before, after *TenantInfo) error {
	if after == nil {
		return r.exec(ctx, deleteTenantSQL, before.ID)
	}
	labels, err := labelsText(after.Labels)
	if err != nil {
		return err
	}
	override, until, under, err := after.overrideColumns()
	if err != nil {
		return err
	}
	statement := updateTenantSQL
	if before == nil {
		statement = insertTenantSQL
	}
	t := after
	err = r.exec(ctx, statement, t.ID, t.Shard, t.Database, string(t.Model), t.Schema, t.Role, t.Plan, string(t.State),
		t.Epoch, t.Assignment, t.SchemaVersion, t.Slug, labels, override, until, under, timeOrNull(t.Removed))
	return tenantConflict(t, err)
}

// findSQL holds only the conditions that f has, so that each kind of question is planned for itself.
func findSQL(f TenantFilter) (statement string, args []any, err error) {
	labels, err := labelsText(f.Labels)
	if err != nil {
		return "", nil, err
	}
	var where []string
	add := func(ask bool, condition string, arg any) {
		if ask {
			args = append(args, arg)
			where = append(where, strings.ReplaceAll(condition, "?", fmt.Sprintf("$%d", len(args))))
		}
	}
	add(true, "id > ?", f.After)
	add(f.ids != nil, "id = any(?::text[])", f.ids)
	add(f.Shard != "", "shard = ?", f.Shard)
	add(f.Database != "", "database = ?", f.Database)
	add(f.Plan != "", "plan = ?", f.Plan)
	add(f.Slug != "", "slug = ? and slug <> ''", f.Slug)
	add(len(f.States) > 0, "state = any(?::text[])", texts(f.States))
	add(len(f.Models) > 0, "model = any(?::text[])", texts(f.Models))
	add(len(f.Labels) > 0, "labels @> ?::jsonb", labels)
	switch f.Removed {
	case PresentTenants:
		where = append(where, "removed_at is null")
	case RemovedTenants:
		where = append(where, "removed_at is not null")
	case AnyTenants:
	}
	args = append(args, f.Limit)
	return fmt.Sprintf("select %s from {s}.tenants where %s order by id limit $%d",
		tenantColumns, strings.Join(where, " and "), len(args)), args, nil
}

func (t *tables) find(ctx context.Context, f TenantFilter) (found []TenantInfo, err error) {
	statement, args, err := findSQL(f)
	if err != nil {
		return nil, err
	}
	err = t.p.read(ctx, "listing tenants", func() error {
		rows, err := t.p.db.QueryContext(ctx, t.p.sql(statement), args...)
		found, err = collect(rows, err, scanTenant)
		return err
	})
	return found, err
}

func texts[T resolver.State | resolver.Model](values []T) []string {
	out := make([]string, 0, len(values))
	for _, v := range values {
		out = append(out, string(v))
	}
	return out
}
