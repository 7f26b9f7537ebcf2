package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/registry"
)

// makePartitions makes the tenant's partition of each table that is partitioned by the tenant column.
func (r *run) makePartitions(ctx context.Context, conn *pgx.Conn) error {
	return r.step("read tables", func() error {
		found, err := r.partitioned(ctx, conn)
		if err != nil {
			return err
		}
		for _, t := range found {
			if !t.Partitioned {
				continue // shared as it is
			}
			if err := r.step("partition of "+t.ident(), func() error {
				return inTx(ctx, conn, func(tx pgx.Tx) error { return r.makePartition(ctx, tx, t) })
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

const (
	// partitionSQL returns the parent of the relation of that name, 0 if it is nobody's partition.
	partitionSQL = `select coalesce((select i.inhparent from pg_inherits i where i.inhrelid = c.oid), 0)::oid
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2`

	policiesSQL = `select y.polname, case when y.polpermissive then 'permissive' else 'restrictive' end,
       case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
       (select coalesce(array_agg(case when r = 0 then 'public' else quote_ident(pg_get_userbyid(r)) end), '{}') from unnest(y.polroles) r),
       coalesce(pg_get_expr(y.polqual, y.polrelid), ''), coalesce(pg_get_expr(y.polwithcheck, y.polrelid), '')
  from pg_policy y
 where y.polrelid = $1 and not exists (select from pg_policy o where o.polrelid = $2 and o.polname = y.polname)`

	grantsSQL = `select quote_ident(pg_get_userbyid(g.grantee)), string_agg(g.privilege_type, ', ' order by g.privilege_type), g.is_grantable
  from pg_class c, aclexplode(c.relacl) g
 where c.oid = $1 and g.grantee not in (0, c.relowner) and pg_get_userbyid(g.grantee) <> $2 group by 1, g.grantee, 3`

	// partitionReadySQL compares the partition with its table.
	partitionReadySQL = `select c.relrowsecurity and c.relforcerowsecurity and c.relowner = t.relowner
   and (select count(*) from pg_policy where polrelid = c.oid) >= (select count(*) from pg_policy where polrelid = t.oid)
  from pg_class c, pg_class t where c.oid = $1 and t.oid = $2`
)

// makePartition makes one partition with all that its table has against reading it directly: policies of the table do
// not count for who names the partition.
func (r *run) makePartition(ctx context.Context, tx pgx.Tx, t table) error {
	name := partitionName(t.Name, r.tenant.ID)
	part := ident(t.Schema, name)
	var parent uint32
	switch err := tx.QueryRow(ctx, partitionSQL, t.Schema, name).Scan(&parent); {
	case errors.Is(err, pgx.ErrNoRows):
		if err := exec(ctx, tx, "create table "+part+" partition of "+t.ident()+" for values in ("+literal(r.tenant.ID)+")"); err != nil {
			return err
		}
	case err != nil:
		return err
	case parent != t.OID:
		return fmt.Errorf("%w: %s exists and is no partition of %s: rename it", registry.ErrConflict, part, t.ident())
	}
	if err := exec(ctx, tx,
		"alter table "+part+" owner to "+ident(t.Owner),
		"alter table "+part+" enable row level security",
		"alter table "+part+" force row level security",
		"comment on table "+part+" is "+literal(mark(r.tenant.ID)),
	); err != nil {
		return err
	}
	var oid uint32
	if err := tx.QueryRow(ctx, `select $1::regclass::oid`, part).Scan(&oid); err != nil {
		return err
	}
	if err := copyPolicies(ctx, tx, t.OID, oid, part); err != nil {
		return err
	}
	if err := copyGrants(ctx, tx, t.OID, part, r.Login); err != nil {
		return err
	}
	var ready bool
	if err := tx.QueryRow(ctx, partitionReadySQL, oid, t.OID).Scan(&ready); err != nil {
		return err
	}
	if !ready {
		return fmt.Errorf("%s lacks policies of its table although they were just made: is another program changing them?", part)
	}
	return nil
}

func copyPolicies(ctx context.Context, tx pgx.Tx, from, to uint32, part string) error {
	type policy struct {
		Name, Kind, Command string
		Roles               []string
		Using, Check        string
	}
	rows, err := tx.Query(ctx, policiesSQL, from, to)
	if err != nil {
		return err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowToStructByPos[policy])
	if err != nil {
		return err
	}
	for _, p := range missing {
		statement := fmt.Sprintf("create policy %s on %s as %s for %s to %s", ident(p.Name), part, p.Kind, p.Command, strings.Join(p.Roles, ", "))
		if p.Using != "" {
			statement += " using (" + p.Using + ")"
		}
		if p.Check != "" {
			statement += " with check (" + p.Check + ")"
		}
		if err := exec(ctx, tx, statement); err != nil {
			return err
		}
	}
	return nil
}

// copyGrants leaves out the login of tenants' statements, and PUBLIC: they name the table, which needs no right on its parts.
func copyGrants(ctx context.Context, tx pgx.Tx, from uint32, to, login string) error {
	type grant struct {
		Grantee, Privileges string
		Grantable           bool
	}
	rows, err := tx.Query(ctx, grantsSQL, from, login)
	if err != nil {
		return err
	}
	grants, err := pgx.CollectRows(rows, pgx.RowToStructByPos[grant])
	if err != nil {
		return err
	}
	for _, g := range grants {
		statement := "grant " + g.Privileges + " on " + to + " to " + g.Grantee
		if g.Grantable {
			statement += " with grant option"
		}
		if err := exec(ctx, tx, statement); err != nil {
			return err
		}
	}
	return nil
}
