package registry

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
)

//go:embed schema_v1.sql
var schemaV1 string

//go:embed schema_v2.sql
var schemaV2 string

//go:embed schema_v3.sql
var schemaV3 string

//go:embed schema_v4.sql
var schemaV4 string

// migrations bring the registry from version n to n+1. They are only ever appended to.
var migrations = []string{schemaV1, schemaV2, schemaV3, schemaV4}

const initLockSQL = `select pg_advisory_xact_lock(hashtextextended('sharded-pg registry ' || $1, 0))`

// Init creates the registry's schema, or brings it to this version, in one transaction. A new registry gets
// [DefaultPlans]; later Inits leave the plans alone. It may be called by any number of programs at the same time, and
// again at each start. A registry that a newer program has upgraded is refused with [ErrNewerRegistry]. Upgrade the
// registry before the drivers: an older driver reads a newer registry as far as it knows it, a newer one needs its tables.
func (p *Postgres) Init(ctx context.Context) error {
	return p.explain(ctx, "initializing the registry", p.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, initLockSQL, p.opts.Schema); err != nil {
			return err
		}
		version, err := p.version(ctx, tx)
		if err != nil {
			return err
		}
		if err := checkVersion(version); err != nil {
			return err
		}
		for v := version; v < len(migrations); v++ {
			// Without arguments pgx sends it as one simple query, which may hold several statements.
			if _, err := tx.ExecContext(ctx, p.sql(migrations[v])); err != nil {
				return fmt.Errorf("to version %d: %w", v+1, err)
			}
			if _, err := tx.ExecContext(ctx, p.sql(`insert into {s}.versions (version) values ($1)`), v+1); err != nil {
				return err
			}
		}
		if version > 0 {
			return nil
		}
		for _, plan := range DefaultPlans() {
			if _, err := tx.ExecContext(ctx, p.sql(insertPlanSQL), planArgs(plan)...); err != nil {
				return fmt.Errorf("plan %q: %w", plan.Name, err)
			}
		}
		return nil
	}))
}

// checkVersion refuses to touch what a newer program keeps in another way.
func checkVersion(version int) error {
	if version > len(migrations) {
		return fmt.Errorf("%w: its version is %d and this program knows %d: use a newer program",
			ErrNewerRegistry, version, len(migrations))
	}
	return nil
}

// version returns the version of the registry, and creates the schema and the table of versions if they are missing.
// It looks before it creates: IF NOT EXISTS asks for the right to create even when there is nothing to do.
func (p *Postgres) version(ctx context.Context, tx *sql.Tx) (version int, err error) {
	var schema, versions bool
	err = tx.QueryRowContext(ctx, `select to_regnamespace($1) is not null, to_regclass($2) is not null`,
		p.schema, p.schema+".versions").Scan(&schema, &versions)
	if err != nil {
		return 0, err
	}
	if !schema {
		if _, err := tx.ExecContext(ctx, p.sql(`create schema {s}`)); err != nil {
			return 0, err
		}
	}
	if !versions {
		_, err := tx.ExecContext(ctx, p.sql(`create table {s}.versions (
			version integer primary key, applied_at timestamptz not null default now())`))
		return 0, err
	}
	err = tx.QueryRowContext(ctx, p.sql(`select coalesce(max(version), 0) from {s}.versions`)).Scan(&version)
	return version, err
}
