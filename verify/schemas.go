package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry/provision"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

// schemaIDs are the two tenants of model schema: their IDs are in no column.
var schemaIDs = [2]string{"shardedpg-verify-a", "shardedpg-verify-b"}

// templated reports whether tenants of model schema are made on this database, and are to be attacked.
func (c *catalog) templated() bool {
	return slices.ContainsFunc(c.tables, func(t *table) bool {
		return t.Schema == c.Template && !c.skipped(t.name()) && (len(c.Tables) == 0 || matches(c.Tables, t.name()))
	})
}

// attackSchemas makes two tenants of model schema, and lets one go for the tables of the other by their names.
func (c *catalog) attackSchemas(ctx context.Context, conn *pgx.Conn, report *Report) error {
	store, err := c.tenants(ctx, schemaIDs, resolver.ModelSchema)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	for _, id := range schemaIDs {
		if err := provision.Tenant(ctx, store.Admin, id, c.provisioning()); err != nil {
			report.Results = append(report.Results, Result{"schema " + c.Template, "all", NotTried, fmt.Sprintf("no tenants could be made from it: %v", err)})
			return ctx.Err()
		}
	}
	now, err := readCatalog(ctx, conn, c.Config)
	if err != nil {
		return err
	}
	s, done, err := now.open(ctx, conn, schemaIDs, store, report)
	if err != nil {
		return err
	}
	defer done()
	if err := s.login(ctx); errors.Is(err, shardedpg.ErrUnsafeRole) {
		return nil
	} else if err != nil {
		return err
	}
	s.schema = true
	for _, t := range now.tables {
		if t.Schema != c.schemas[1] {
			continue
		}
		if err := s.seedOwn(ctx, t); err != nil {
			return err
		}
		report.Tables++
		s.attackSchema(ctx, t)
	}
	return ctx.Err()
}

// seedOwn makes the victim's row in a table of its own schema.
func (s *scene) seedOwn(ctx context.Context, t *table) error {
	if t.seeded {
		return nil
	}
	t.seeded = true
	values, err := s.values(ctx, t, 1)
	if err == nil {
		t.rows[1], err = s.insertRow(ctx, t, 1, values)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		t.rows[1], t.reason = row{}, err.Error()
	}
	return nil
}

// attackSchema attacks a table of the victim's. The attacker's own table of that name is empty.
func (s *scene) attackSchema(ctx context.Context, t *table) {
	if t.rows[1].values == nil {
		s.add(t.name(), "all", notTried("no row could be made: %s", t.reason))
		return
	}
	a, of, look := s.as(ctx, 0), t.ident(), "select count(*) from "+t.ident()
	if n, err := s.count(s.as(ctx, 1), s.db, look); err != nil || n == 0 {
		s.add(t.name(), "all", notTried("its tenant does not see its own row"))
		return
	}
	first := ident(t.columns[max(slices.IndexFunc(t.columns, func(c column) bool { return !c.Default && !c.Generated }), 0)].Name)
	s.add(t.name(), "select by schema", rows(s.count(a, s.db, look)))
	s.add(t.name(), "select for update", s.inTx(ctx, func(tx *sql.Tx) verdict {
		return rows(s.count(a, tx, "select count(*) from (select from "+of+" for update) x"))
	}))
	for name, query := range map[string]string{
		"update by schema": "update " + of + " set " + first + " = " + first, "delete by schema": "delete from " + of,
	} {
		s.add(t.name(), name, s.inTx(ctx, func(tx *sql.Tx) verdict { return changed(affected(a, tx, query)) }))
	}
	if values, err := s.insertable(ctx, t, 1); err != nil {
		s.add(t.name(), "insert by schema", notTried("no row for it: %v", err))
	} else {
		insert, args := insertSQL(t, values)
		s.add(t.name(), "insert by schema", s.inTx(ctx, func(tx *sql.Tx) verdict {
			_, err := tx.ExecContext(a, insert, args...)
			return planted(err)
		}))
	}
	path, role := "set search_path = "+rls.QuoteIdent(s.schemas[1]), "set role "+rls.QuoteIdent(s.roles[1])
	for _, w := range []struct{ name, statement, look string }{
		{"search_path", path, "select count(*) from " + ident(t.Name)},
		{"set role", role, look},
	} {
		s.add(t.name(), w.name, s.onConn(ctx, func(conn *sql.Conn) verdict {
			if _, err := conn.ExecContext(a, w.statement); err != nil {
				return failed(err)
			}
			return rows(s.count(a, conn, w.look))
		}))
		s.add(t.name(), w.name+", in a transaction", s.inTx(ctx, func(tx *sql.Tx) verdict {
			if _, err := tx.ExecContext(a, w.statement); err != nil {
				return failed(err)
			}
			return rows(s.count(a, tx, w.look))
		}))
	}
	s.add(t.name(), "string of several statements", s.inTx(ctx, func(tx *sql.Tx) verdict {
		n, err := affected(a, tx, role+"; update "+of+" set "+first+" = "+first)
		if err == nil && n > 0 {
			return known("not stopped: the login may become the role of each tenant")
		}
		return changed(n, err)
	}))
}
