package verify

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/rls"
)

// reads tries to see the victim's row.
func (s *scene) reads(ctx context.Context, t *table) {
	a, b, of := s.is(0), s.is(1), t.ident()
	col := ident(s.TenantColumn)
	for _, r := range []struct{ name, query string }{
		{"select by tenant", "select count(*) from " + of + " where " + b},
		{"select by place", "select count(*) from " + of + " where ctid = '" + t.rows[1].ctid + "' and " + b},
		{"aggregate", "select coalesce(max(n), 0) from (select " + col + " as c, count(*) as n from " + of + " where " + a + " or " + b +
			" group by 1) g where c = '" + s.ids[1] + "'"},
		{"join", "select count(*) from (values ('" + s.ids[1] + "'::" + t.Type + ")) v (id) join " + of + " x on x." + col + " = v.id"},
		{"subquery", "select count(*) from " + of + " x where x." + a + " and exists (select from " + of + " y where y." + b + ")"},
		{"table command", "with x as (table " + of + ") select count(*) from x where " + b},
	} {
		n, err := s.count(s.as(ctx, 0), s.db, r.query)
		s.add(t.name(), r.name, rows(n, err))
	}
	s.add(t.name(), "cached plan", func() verdict { // which must not keep for whom it was made
		query := "select count(*) as cached from " + of + " where " + b
		if _, err := s.count(s.as(ctx, 1), s.db, query); err != nil {
			return failed(err)
		}
		return rows(s.count(s.as(ctx, 0), s.db, query))
	}())
	if k, ok := t.primary(); ok {
		condition, args := t.at(k.Columns, 0)
		n, err := s.count(s.as(ctx, 0), s.db, "select count(*) from "+of+" where "+condition+" and "+b, args...)
		s.add(t.name(), "select by key", rows(n, err))
	}
	s.add(t.name(), "select for update", s.inTx(ctx, func(tx *sql.Tx) verdict {
		return rows(s.count(s.as(ctx, 0), tx, "select count(*) from (select from "+of+" where "+b+" for update) x"))
	}))
	s.add(t.name(), "cursor", s.inTx(ctx, func(tx *sql.Tx) verdict {
		if _, err := affected(s.as(ctx, 0), tx, "declare shardedpg_verify cursor for select 1 from "+of+" where "+b); err != nil {
			return failed(err)
		}
		return rows(affected(s.as(ctx, 0), tx, "fetch all from shardedpg_verify"))
	}))
	s.add(t.name(), "copy to", s.copying(ctx, func(ctx context.Context, c *pgx.Conn) verdict {
		var out bytes.Buffer
		_, err := c.PgConn().CopyTo(ctx, &out, "copy (select 1 from "+of+" where "+b+") to stdout")
		return rows(int64(out.Len()), err)
	}))
}

// copying runs an attack on pgx's own connection; nobody gets that connection after it.
func (s *scene) copying(ctx context.Context, attack func(ctx context.Context, c *pgx.Conn) verdict) verdict {
	return s.onConn(ctx, func(conn *sql.Conn) (v verdict) {
		if _, err := conn.ExecContext(s.as(ctx, 0), "select 1"); err != nil { // Raw has no context to take the tenant from
			return failed(err)
		}
		if err := conn.Raw(func(driverConn any) error {
			raw, ok := driverConn.(interface{ Conn() *pgx.Conn })
			if !ok {
				return errors.New("the driver's connection has no Conn method")
			}
			v = attack(s.as(ctx, 0), raw.Conn())
			return nil
		}); err != nil {
			return failed(err)
		}
		return v
	})
}

// writes tries to change the victim's row, to make one for the victim, and to give one away. All of it is rolled back.
func (s *scene) writes(ctx context.Context, t *table) {
	a, b, of, col := s.is(0), s.is(1), t.ident(), ident(s.TenantColumn)
	write := func(name, query string, args ...any) {
		s.add(t.name(), name, s.inTx(ctx, func(tx *sql.Tx) verdict { return changed(affected(s.as(ctx, 0), tx, query, args...)) }))
	}
	write("update", "update "+of+" set "+col+" = "+col+" where "+b)
	write("take over", "update "+of+" set "+col+" = '"+s.ids[0]+"' where "+b)
	write("delete", "delete from "+of+" where "+b)
	if s.version >= 150000 {
		write("merge, delete", "merge into "+of+" t using (values (1)) v (x) on t."+b+" when matched then delete")
		write("merge, take over", "merge into "+of+" t using (values (1)) v (x) on t."+b+" when matched then update set "+col+" = '"+s.ids[0]+"'")
	}
	if t.rows[0].values != nil {
		s.add(t.name(), "give away", s.inTx(ctx, func(tx *sql.Tx) verdict {
			n, err := affected(s.as(ctx, 0), tx, "update "+of+" set "+col+" = '"+s.ids[1]+"' where "+a)
			if err == nil && n == 0 {
				return notTried("tenants cannot change their own row")
			}
			return planted(err)
		}))
	}
	values, err := s.insertable(ctx, t, 1)
	if err != nil {
		s.add(t.name(), "insert", notTried("no row for it: %v", err))
		return
	}
	insert, args := insertSQL(t, values)
	into := func(name, query string, args ...any) {
		s.add(t.name(), name, s.inTx(ctx, func(tx *sql.Tx) verdict {
			_, err := tx.ExecContext(s.as(ctx, 0), query, args...)
			return planted(err)
		}))
	}
	into("insert", insert, args...)
	if s.version >= 150000 {
		head, tail, _ := strings.Cut(strings.TrimPrefix(insert, "insert into "+of+" "), " overriding system value ")
		into("merge, insert", "merge into "+of+" t using (values (1)) v (x) on false when not matched then insert "+head+" overriding system value "+tail, args...)
	}
	s.upsert(ctx, t)
	s.add(t.name(), "copy from", s.copyIn(ctx, t, values))
}

// planted is the verdict of a statement that makes a row of the victim.
func planted(err error) verdict {
	if err != nil {
		return past(err)
	}
	return broken("the row is the other tenant's now")
}

func (s *scene) copyIn(ctx context.Context, t *table, values map[string]*string) verdict {
	var names, line []string
	for _, c := range t.columns {
		if value := values[c.Name]; value != nil && !c.Generated {
			names, line = append(names, ident(c.Name)), append(line, strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`).Replace(*value))
		}
	}
	return s.copying(ctx, func(ctx context.Context, c *pgx.Conn) verdict {
		if _, err := c.Exec(ctx, "begin"); err != nil {
			return failed(err)
		}
		defer func() { _, _ = c.Exec(ctx, "rollback") }()
		_, err := c.PgConn().CopyFrom(ctx, strings.NewReader(strings.Join(line, "\t")+"\n"), "copy "+t.ident()+" ("+strings.Join(names, ", ")+") from stdin")
		if code(err) == "0A000" {
			return held("refused by the server")
		}
		if errors.Is(err, io.EOF) {
			return notTried("the connection ended")
		}
		return planted(err)
	})
}

// upsert inserts a row with the victim's key, so that the conflict is with the victim's row.
func (s *scene) upsert(ctx context.Context, t *table) {
	var target *key
	for _, k := range t.keys {
		if k.Plain && t.names(k) && (target == nil || !k.has(s.TenantColumn) && target.has(s.TenantColumn)) {
			target = &k
		}
	}
	if target == nil {
		return
	}
	values := map[string]*string{}
	for name, value := range t.rows[1].values {
		values[name] = value
	}
	if !target.has(s.TenantColumn) {
		values[s.TenantColumn] = &s.ids[0]
	}
	insert, args := insertSQL(t, values)
	columns := make([]string, len(target.Columns))
	for i, name := range target.Columns {
		columns[i] = ident(name)
	}
	col := ident(s.TenantColumn)
	s.add(t.name(), "upsert", s.inTx(ctx, func(tx *sql.Tx) verdict {
		n, err := affected(s.as(ctx, 0), tx, insert+" on conflict ("+strings.Join(columns, ", ")+") do update set "+col+" = excluded."+col, args...)
		if code(err) == "23505" { // of another key, which unique keys report
			return held("")
		}
		return changed(n, err)
	}))
}

// probes asks keys about the victim: they are checked without regard to policies.
func (s *scene) probes(ctx context.Context, t *table) {
	if t.Root != 0 || t.rows[0].values == nil {
		return
	}
	for _, k := range t.keys {
		if !k.has(s.TenantColumn) {
			s.add(t.name(), "unique key "+k.Name, s.unique(ctx, t, k))
		}
	}
	for _, f := range t.foreign {
		if parent := s.byOID[f.Parent]; parent != nil && parent.Type != "" && !slices.Equal(f.From, []string{s.TenantColumn}) {
			s.add(t.name(), "foreign key "+f.Name, s.foreignKey(ctx, t, f, parent))
		}
	}
}

func (s *scene) unique(ctx context.Context, t *table, k key) verdict {
	if k.Plain && !t.names(k) {
		return notTried("the other tenant's row has no value in it")
	}
	values, err := s.insertable(ctx, t, 0)
	if err != nil {
		return notTried("no row for it: %v", err)
	}
	for _, name := range k.Columns {
		values[name] = t.rows[1].values[name]
	}
	insert, args := insertSQL(t, values)
	return s.inTx(ctx, func(tx *sql.Tx) verdict {
		_, err := tx.ExecContext(s.as(ctx, 0), insert, args...)
		switch {
		case err == nil:
			return held("")
		case code(err) == "23505":
			return known("it tells that another tenant has the value: the key does not carry the tenant")
		}
		return failed(err)
	})
}

func (s *scene) foreignKey(ctx context.Context, t *table, f foreignKey, parent *table) verdict {
	theirs := parent.rows[1].values
	if theirs == nil {
		return notTried("there is no row of the other tenant in %s: %s", parent.name(), parent.reason)
	}
	var sets []string
	var args []any
	for i, name := range f.From {
		if name == s.TenantColumn {
			continue
		}
		args = append(args, theirs[f.To[i]])
		sets = append(sets, fmt.Sprintf("%s = $%d::text::%s", ident(name), len(args), t.column(name).Type))
	}
	return s.inTx(ctx, func(tx *sql.Tx) verdict {
		if _, err := tx.ExecContext(s.as(ctx, 0), "set constraints all immediate"); err != nil && !errors.Is(err, shardedpg.ErrStatementRefused) {
			return failed(err)
		}
		n, err := affected(s.as(ctx, 0), tx, "update "+t.ident()+" set "+strings.Join(sets, ", ")+" where "+s.is(0), args...)
		switch {
		case code(err) == "23503":
			return held("as if there were no such row")
		case err != nil:
			return failed(err)
		case n == 0:
			return notTried("tenants cannot change their own row")
		}
		return known("a row may point at another tenant's in %s, and tells so that it is there: the key does not carry the tenant", parent.name())
	})
}

// switches tries to become the victim by the tenant setting.
func (s *scene) switches(ctx context.Context, t *table) {
	a, b := s.as(ctx, 0), s.is(1)
	set := s.GUC + " = '" + s.ids[1] + "'"
	call := "set_config('" + s.GUC + "', '" + s.ids[1] + "', "
	col := ident(s.TenantColumn)
	look := "select count(*) from " + t.ident() + " where " + b
	after := func(name string, statements ...string) {
		s.add(t.name(), name, s.onConn(ctx, func(conn *sql.Conn) verdict {
			for _, statement := range statements {
				if _, err := conn.ExecContext(a, statement); err != nil {
					return failed(err)
				}
			}
			return rows(s.count(a, conn, look))
		}))
		s.add(t.name(), name+", in a transaction", s.inTx(ctx, func(tx *sql.Tx) verdict {
			for _, statement := range statements {
				if _, err := tx.ExecContext(a, statement); err != nil {
					return failed(err)
				}
			}
			return rows(s.count(a, tx, look))
		}))
	}
	after("set", "set "+set)
	after("set local", "set local "+set)
	after("set_config", "select "+call+"false)")
	after("reset all", "reset all")
	after("row_security off", "set row_security = off")

	s.add(t.name(), "switch inside the statement", func() (v verdict) {
		for _, query := range []string{
			"select count(*) from " + t.ident() + " where " + call + "true) is not null and " + b,
			"with x as materialized (select " + call + "true) as id) select n from x cross join lateral (select count(*) as n from " +
				t.ident() + " where x.id is not null and " + b + ") y",
		} {
			if v = insideVerdict(s.count(a, s.db, query)); v.outcome != Held {
				return v
			}
		}
		return v
	}())
	s.add(t.name(), "string of several statements", s.inTx(ctx, func(tx *sql.Tx) verdict {
		return insideVerdict(affected(a, tx, "set local "+set+"; update "+t.ident()+" set "+col+" = "+col+" where "+b))
	}))
	s.add(t.name(), "forged token", s.forged(ctx, t))
}

// forged puts the victim's ID into the token that the driver has signed for the attacker. Where tenants are not signed, or the
// policy does not read the token, there is nothing to attack: the other switches say so.
func (s *scene) forged(ctx context.Context, t *table) verdict {
	a := s.as(ctx, 0)
	token := "current_setting('" + rls.TokenSetting + "', true)"
	if n, err := s.count(a, s.db, "select count(*) where "+token+" <> ''"); err != nil || n == 0 {
		return verdict{}
	}
	forge := "set_config('" + rls.TokenSetting + "', left(" + token + ", -length('" + s.ids[0] + "')) || '" + s.ids[1] + "', true)"
	n, err := s.count(a, s.db, "with x as materialized (select "+forge+" as id) select n from x cross join lateral "+
		"(select count(*) as n from "+t.ident()+" where x.id is not null and "+s.is(1)+") y")
	switch {
	case code(err) == "28000":
		return held("refused by the server")
	case err != nil:
		return failed(err)
	case n > 0:
		return broken("a token that nobody has signed is believed: shardedpg rls apply --dry-run shows what verifies tokens")
	}
	return verdict{}
}

// insideVerdict is about switching in the middle of what the driver sends as one: only a signed identity would stop that.
func insideVerdict(n int64, err error) verdict {
	if err == nil && n > 0 {
		return known("not stopped at this level: needs signed identity")
	}
	return rows(n, err)
}
