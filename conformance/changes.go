package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// Tables change under cached statements.
var schemaChanges = []scenario{
	{name: "a changed table never reaches the caller", run: changedTable, conns: 2},
	{name: "in a transaction it shows once something ran, and only then", run: changedInTx},
	{name: "no statement fails while tables change", run: changesUnderLoad, conns: 4},
}

const wideSQL = "select * from wide where id > $1"

// changing makes a table of the tenants' that a scenario may alter.
func (s *scene) changing() {
	s.Helper()
	s.made(`create table wide (tenant_id text not null default nullif(current_setting('{guc}', true), ''), id int);
		alter table wide enable row level security; alter table wide force row level security;
		create policy rows on wide using (tenant_id = (select nullif(current_setting('{guc}', true), '')));
		alter table wide owner to {owner}; grant select, insert on wide to {login};
		insert into wide values ('{a}', 1), ('{b}', 1)`, "drop table wide")
}

// columns counts those of the one row that a tenant sees; foreign rows are an error.
func columns(ctx context.Context, q interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
},
) (int, error) {
	rows, err := q.QueryContext(ctx, wideSQL, 0)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	n := 0
	for rows.Next() {
		values := make([]any, len(names))
		for i := range values {
			values[i] = &values[i]
		}
		if err := rows.Scan(values...); err != nil {
			return 0, err
		}
		if got := fmt.Sprintf("%q", values[0]); got != tenantName(ctx) {
			return 0, fmt.Errorf("tenant %s saw a row of %s", tenantName(ctx), got)
		}
		n++
	}
	if n != 1 && rows.Err() == nil {
		return 0, fmt.Errorf("%d rows instead of 1", n)
	}
	return len(names), rows.Err()
}

func changedTable(s *scene) {
	s.changing()
	stmt, err := s.db.PrepareContext(s.a, wideSQL)
	s.ok(err)
	defer stmt.Close()
	warm := func(want int) {
		s.Helper()
		for range 3 {
			for _, ctx := range []context.Context{s.a, s.b} {
				n, err := columns(ctx, s.db)
				s.ok(err)
				equal(s, want, n)
				rows, err := stmt.QueryContext(ctx, 0)
				s.ok(err)
				names, err := rows.Columns()
				s.ok(err)
				equal(s, want, len(names))
				s.ok(rows.Close())
			}
		}
	}
	warm(2)
	for i := range 3 {
		s.admin(fmt.Sprintf("alter table wide add column c%d int", i))
		warm(3 + i)
	}
	s.admin("alter table wide alter column c0 type text")
	warm(5)
	s.admin("alter table wide drop column c1")
	warm(4)
}

func changedInTx(s *scene) {
	s.changing()
	see := func(q *sql.Tx, want int) {
		s.Helper()
		n, err := columns(s.a, q)
		s.ok(err)
		equal(s, want, n)
	}
	tx := s.begin(s.a)
	see(tx, 2)
	s.ok(tx.Commit())
	s.admin("alter table wide add column c int")
	tx = s.begin(s.a, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	see(tx, 3) // as first statement, and the transaction keeps its options
	equal(s, "serializable on", value[string](s, s.a, tx,
		"select current_setting('transaction_isolation') || ' ' || current_setting('transaction_read_only')"))
	s.ok(tx.Commit())
	s.admin("alter table wide add column d int")
	tx = s.begin(s.a)
	s.exec(s.a, tx, "insert into orders (note) values ('gone')")
	if _, err := columns(s.a, tx); err != nil { // in modes that cache nothing there is nothing to go stale
		want := "0A000"
		if s.h.ExecMode == "cache_describe" {
			want = "08P01" // no plan is cached, but what a result looks like
		}
		s.code(err, want)
		s.is(tx.Commit(), pgx.ErrTxCommitRollback)
		equal(s, 0, s.count("gone"))
		return
	}
	s.ok(tx.Commit())
	equal(s, 1, s.count("gone"))
}

// changesUnderLoad alters the table while eight workers run cached statements on four connections.
func changesUnderLoad(s *scene) {
	s.changing()
	stmt, err := s.db.PrepareContext(s.a, "insert into wide (id) values ($1)")
	s.ok(err)
	defer stmt.Close()
	ctx, stop := context.WithCancelCause(s.Context())
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			own := s.a
			if i%2 == 1 {
				own = s.b
			}
			for ctx.Err() == nil {
				if _, err := columns(own, s.db); err != nil {
					stop(fmt.Errorf("a cached query: %w", err))
				}
				if _, err := stmt.ExecContext(own, -1); err != nil {
					stop(fmt.Errorf("a prepared insert: %w", err))
				}
			}
		})
	}
	for i := range 15 {
		for _, text := range []string{"add column c%[1]d int", "alter column c%[1]d type bigint", "alter column c%[1]d set default %[1]d"} {
			if err := s.alter("alter table wide " + fmt.Sprintf(text, i)); err != nil {
				stop(err)
			}
		}
		if i%3 == 2 {
			if err := s.alter(fmt.Sprintf("alter table wide drop column c%d", i-1)); err != nil {
				stop(err)
			}
		}
	}
	stop(errDone)
	group.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errDone) {
		s.Fatal(err)
	}
	equal(s, 0, outside[int](s, "select count(*) from wide where tenant_id not in ($1, $2)", s.h.A, s.h.B))
}

var errDone = errors.New("done")

func (s *scene) alter(text string) error {
	_, err := s.h.Home.ExecContext(s.Context(), text)
	return err
}
