package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// The upserts change a row only if it differs, so that no row is returned or counted when there is nothing to do.
const (
	putShardSQL = `insert into {s}.shards as old (name, dsn, admin_dsn) values ($1, $2, $3)
on conflict (name) do update set dsn = excluded.dsn, admin_dsn = excluded.admin_dsn, updated_at = now()
 where (old.dsn, old.admin_dsn) is distinct from (excluded.dsn, excluded.admin_dsn)`

	putPlanSQL = `insert into {s}.plans as old (name, statement_timeout_ms, work_mem_kb, max_conns, weight, rate)
values ($1, $2, $3, $4, $5, $6)
on conflict (name) do update set statement_timeout_ms = excluded.statement_timeout_ms, work_mem_kb = excluded.work_mem_kb,
       max_conns = excluded.max_conns, weight = excluded.weight, rate = excluded.rate, updated_at = now()
 where (old.statement_timeout_ms, old.work_mem_kb, old.max_conns, old.weight, old.rate)
       is distinct from (excluded.statement_timeout_ms, excluded.work_mem_kb, excluded.max_conns, excluded.weight, excluded.rate)`

	// The row of another transaction that has just inserted the tenant is not visible to a later SELECT of the same
	// statement, so this comes first and on its own.
	addTenantSQL = `insert into {s}.tenants (id, shard, database, model, schema, role, plan, state)
values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (id) do nothing`

	tenantSQL = `select shard, database, model, schema, role, plan, state from {s}.tenants where id = $1 for update`

	updateTenantSQL = `update {s}.tenants
   set shard = $2, database = $3, model = $4, schema = $5, role = $6, plan = $7, state = $8, updated_at = now(),
       epoch = epoch + case when (shard, database, model, schema, role) is distinct from ($2, $3, $4, $5, $6) then 1 else 0 end
 where id = $1`

	knownSQL = `select exists (select from {s}.shards where name = $1), exists (select from {s}.plans where name = $2)`

	recordSQL = `with audit as (insert into {s}.audit_log (action, subject, detail) values ($1, $2, $3::jsonb))
select pg_notify($4, $5)`
)

// write runs change in a transaction. A commit whose answer was lost is reported as an error; all writes of this package
// may be repeated.
func (p *Postgres) write(ctx context.Context, what string, change func(tx *sql.Tx) error) error {
	// Whatever the server's default is: a later statement has to see what another transaction has just committed.
	var tx *sql.Tx
	err := p.repeat(ctx, func() (err error) {
		tx, err = p.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		return err
	})
	if err != nil {
		return p.explain(ctx, what, err)
	}
	if err := change(tx); err != nil {
		// A failed rollback adds nothing: the connection is closed then, and the server rolls back.
		_ = tx.Rollback()
		return p.explain(ctx, what, err)
	}
	return p.explain(ctx, what, tx.Commit())
}

// record writes the audit row and tells the watchers, in the transaction of the change.
func (p *Postgres) record(ctx context.Context, tx *sql.Tx, action, subject, notification string, detail any) error {
	text, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, p.sql(recordSQL), action, subject, string(text), p.channel, notification)
	return err
}

// changed runs an upsert and reports whether it did anything.
func (p *Postgres) changed(ctx context.Context, tx *sql.Tx, statement string, args ...any) (bool, error) {
	result, err := tx.ExecContext(ctx, p.sql(statement), args...)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// PutShard adds or replaces a shard; see [Store]. The audit record names it and says nothing about its DSNs.
func (p *Postgres) PutShard(ctx context.Context, shard Shard) error {
	if err := validateShard(shard); err != nil {
		return err
	}
	return p.write(ctx, fmt.Sprintf("storing shard %q", shard.Name), func(tx *sql.Tx) error {
		changed, err := p.changed(ctx, tx, putShardSQL, shard.Name, shard.DSN, shard.AdminDSN)
		if err != nil || !changed {
			return err
		}
		return p.record(ctx, tx, "put_shard", shard.Name, flushNotification, map[string]bool{"has_admin_dsn": shard.AdminDSN != ""})
	})
}

// PutPlan adds or replaces a plan; see [Store].
func (p *Postgres) PutPlan(ctx context.Context, plan Plan) error {
	if err := validatePlan(plan); err != nil {
		return err
	}
	return p.write(ctx, fmt.Sprintf("storing plan %q", plan.Name), func(tx *sql.Tx) error {
		changed, err := p.changed(ctx, tx, putPlanSQL, planArgs(plan)...)
		if err != nil || !changed {
			return err
		}
		return p.record(ctx, tx, "put_plan", plan.Name, flushNotification, map[string]any{
			"statement_timeout_ms": timeoutMillis(plan.StatementTimeout), "work_mem_kb": plan.WorkMemKB,
			"max_conns": plan.MaxConns, "weight": plan.Weight, "rate": plan.Rate,
		})
	})
}

func planArgs(plan Plan) []any {
	return []any{plan.Name, timeoutMillis(plan.StatementTimeout), plan.WorkMemKB, plan.MaxConns, plan.Weight, plan.Rate}
}

// PutTenant adds or replaces a tenant; see [Store].
func (p *Postgres) PutTenant(ctx context.Context, tenant Tenant) error {
	tenant, err := complete(tenant)
	if err != nil {
		return err
	}
	err = p.write(ctx, fmt.Sprintf("storing tenant %q", cut(tenant.ID)), func(tx *sql.Tx) error {
		var shardKnown, planKnown bool
		err := tx.QueryRowContext(ctx, p.sql(knownSQL), tenant.Shard, tenant.Plan).Scan(&shardKnown, &planKnown)
		if err != nil {
			return err
		}
		if err := missing(tenant, shardKnown, planKnown); err != nil {
			return err
		}
		changed, err := p.storeTenant(ctx, tx, &tenant)
		if err != nil || !changed {
			return err
		}
		return p.record(ctx, tx, "put_tenant", tenant.ID, tenantNotification+tenant.ID, map[string]any{
			"shard": tenant.Shard, "database": tenant.Database, "model": tenant.Model, "schema": tenant.Schema,
			"role": tenant.Role, "plan": tenant.Plan, "state": tenant.State,
		})
	})
	return tenantConflict(tenant, err)
}

// storeTenant inserts or updates the row, and fills in the state that tenant leaves open.
func (p *Postgres) storeTenant(ctx context.Context, tx *sql.Tx, tenant *Tenant) (changed bool, err error) {
	fresh := *tenant
	if fresh.State == "" {
		fresh.State = resolver.StateActive
	}
	if added, err := p.changed(ctx, tx, addTenantSQL, tenantArgs(fresh)...); err != nil || added {
		*tenant = fresh
		return added, err
	}
	stored := Tenant{ID: tenant.ID}
	err = tx.QueryRowContext(ctx, p.sql(tenantSQL), tenant.ID).Scan(
		&stored.Shard, &stored.Database, &stored.Model, &stored.Schema, &stored.Role, &stored.Plan, &stored.State)
	if errors.Is(err, sql.ErrNoRows) {
		return false, errors.New("the tenant was removed meanwhile: try again")
	}
	if err != nil {
		return false, err
	}
	if tenant.State == "" {
		tenant.State = stored.State
	}
	if *tenant == stored {
		return false, nil
	}
	if err := checkTransition(stored.State, tenant.State); err != nil {
		return false, err
	}
	return p.changed(ctx, tx, updateTenantSQL, tenantArgs(*tenant)...)
}

func tenantArgs(t Tenant) []any {
	return []any{t.ID, t.Shard, t.Database, string(t.Model), t.Schema, t.Role, t.Plan, string(t.State)}
}

// tenantConflict turns a violated unique index into the error that says whose fault it is.
func tenantConflict(tenant Tenant, err error) error {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != "23505" {
		return err
	}
	switch answer.ConstraintName {
	case "tenants_schema":
		return conflict(tenant.ID, "schema", tenant.Schema, tenant.Shard)
	case "tenants_role":
		return conflict(tenant.ID, "role", tenant.Role, tenant.Shard)
	}
	return err
}

// SetTenantState takes a tenant to another state; see [Store] and the diagram in the package documentation.
func (p *Postgres) SetTenantState(ctx context.Context, tenant string, state resolver.State) error {
	if err := resolver.ValidTenantID(tenant); err != nil {
		return err
	}
	return p.write(ctx, fmt.Sprintf("setting the state of tenant %q", cut(tenant)), func(tx *sql.Tx) error {
		var from resolver.State
		err := tx.QueryRowContext(ctx, p.sql(`select state from {s}.tenants where id = $1 for update`), tenant).Scan(&from)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return resolver.ErrTenantNotFound
		case err != nil:
			return err
		}
		if err := checkTransition(from, state); err != nil || from == state {
			return err
		}
		_, err = tx.ExecContext(ctx, p.sql(`update {s}.tenants set state = $2, updated_at = now() where id = $1`), tenant, string(state))
		if err != nil {
			return err
		}
		return p.record(ctx, tx, "set_state", tenant, tenantNotification+tenant,
			map[string]any{"from": from, "state": state})
	})
}
