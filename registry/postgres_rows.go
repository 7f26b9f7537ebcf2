package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgresTx is one transaction on the tables.
type postgresTx struct {
	p  *Postgres
	tx *sql.Tx
}

// changeTries is how often a change is run that others get in front of. Each time one of them was done.
const changeTries = 20

// change runs do in a transaction. A commit whose answer was lost is reported as an error; all changes may be repeated.
func (t *tables) change(ctx context.Context, what string, do func(tx *change) error) error {
	var err error
	for range changeTries {
		if err = t.p.write(ctx, func(tx *sql.Tx) error {
			ptx := &postgresTx{t.p, tx}
			return do(&change{
				ledger: ptx, census: ptx, shards: shardRows{ptx}, plans: planRows{ptx}, tenants: tenantRows{ptx}, graves: graveRows{ptx},
			})
		}); !errors.Is(err, errAgain) {
			break
		}
	}
	return t.p.explain(ctx, what, err)
}

// write runs step in a transaction.
func (p *Postgres) write(ctx context.Context, step func(tx *sql.Tx) error) error {
	// Whatever the server's default is: a later statement has to see what another transaction has just committed.
	var tx *sql.Tx
	err := p.repeat(ctx, func() (err error) {
		tx, err = p.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		return err
	})
	if err != nil {
		return err
	}
	if err := step(tx); err != nil {
		// A failed rollback adds nothing: the connection is closed then, and the server rolls back.
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

func (tx *postgresTx) query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return tx.tx.QueryContext(ctx, tx.p.sql(statement), args...)
}

// exec runs a statement that has to change one row; errAgain says that the row changed meanwhile.
func (tx *postgresTx) exec(ctx context.Context, statement string, args ...any) error {
	result, err := tx.tx.ExecContext(ctx, tx.p.sql(statement), args...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errAgain)
	}
	return nil
}

// collect reads all rows of an answer.
func collect[T any](rows *sql.Rows, err error, scan func(row scanner) (T, error)) (all []T, _ error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		row, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// one reads a row that may be missing.
func one[T any](rows *sql.Rows, err error, scan func(row scanner) (T, error)) (*T, error) {
	all, err := collect(rows, err, scan)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[0], nil
}

type scanner interface{ Scan(dest ...any) error }

const (
	lockSQL = `select pg_advisory_xact_lock(hashtextextended('sharded-pg placement ' || $1, 0))`

	populationSQL = `select shard, count(*), count(*) filter (where schema <> '') from {s}.tenants group by shard`

	inhabitantsSQL = `select count(*) from {s}.tenants where shard = $1`

	// One statement, so that an audit record costs one round trip. The version is read where it cannot change any more:
	// Init waits for this transaction, or this one for Init.
	recordSQL = `with audit as (
  insert into {s}.audit_log (actor, action, kind, subject, before, after, note)
  values ($1, $2, $3, $4, $5::jsonb, $6::jsonb, $7))
select (select max(version) from {s}.versions), case when $9 = '' then null else pg_notify($8, $9) end is null`
)

func (tx *postgresTx) lock(ctx context.Context) error {
	_, err := tx.tx.ExecContext(ctx, lockSQL, tx.p.opts.Schema)
	return err
}

func (tx *postgresTx) population(ctx context.Context) (map[string]population, error) {
	counts := make(map[string]population)
	rows, err := tx.query(ctx, populationSQL)
	_, err = collect(rows, err, func(row scanner) (none struct{}, err error) {
		var shard string
		var n population
		err = row.Scan(&shard, &n.tenants, &n.schemas)
		counts[shard] = n
		return none, err
	})
	return counts, err
}

func (tx *postgresTx) inhabitants(ctx context.Context, shard string) (n int, err error) {
	err = tx.tx.QueryRowContext(ctx, tx.p.sql(inhabitantsSQL), shard).Scan(&n)
	return n, err
}

func (tx *postgresTx) record(ctx context.Context, e AuditEntry, notification string) error {
	before, err := nullableJSON(e.Before)
	if err != nil {
		return err
	}
	after, err := nullableJSON(e.After)
	if err != nil {
		return err
	}
	var version int
	var told bool
	err = tx.tx.QueryRowContext(ctx, tx.p.sql(recordSQL), tx.p.who(ctx), e.Action, e.Kind, e.Subject, before, after, e.Note,
		tx.p.channel, notification).Scan(&version, &told)
	if err != nil {
		return err
	}
	return checkVersion(version)
}

func nullableJSON(fields map[string]any) (*string, error) {
	if fields == nil {
		return nil, nil
	}
	bytes, err := json.Marshal(fields)
	text := string(bytes)
	return &text, err
}

const (
	graveSQL  = `select id, shard, rows::text from {s}.graves where id = $1`
	gravesSQL = `select id, shard, rows::text from {s}.graves order by id`
	burySQL   = `insert into {s}.graves (id, shard, rows) values ($1, $2, $3::jsonb) on conflict (id) do nothing`
)

type graveRows struct{ *postgresTx }

func scanGrave(row scanner) (g grave, err error) {
	var rows string
	if err := row.Scan(&g.ID, &g.Shard, &rows); err != nil {
		return g, err
	}
	return g, json.Unmarshal([]byte(rows), &g.Rows)
}

func (r graveRows) get(ctx context.Context, id string) (*grave, error) {
	rows, err := r.query(ctx, graveSQL, id)
	return one(rows, err, scanGrave)
}

func (r graveRows) all(ctx context.Context) ([]grave, error) {
	rows, err := r.query(ctx, gravesSQL)
	return collect(rows, err, scanGrave)
}

func (r graveRows) put(ctx context.Context, before, after *grave) error {
	if before != nil || after == nil {
		return errors.New("a grave is only ever added")
	}
	rows, err := json.Marshal(after.Rows)
	if err != nil {
		return err
	}
	return r.exec(ctx, burySQL, after.ID, after.Shard, string(rows))
}

const entriesSQL = `select id, at, actor, login, action, kind, subject, coalesce(before::text, ''), coalesce(after::text, ''), note
  from {s}.audit_log
 where ($1 = '' or kind = $1) and ($2 = '' or subject = $2) and ($3 = '' or actor = $3) and ($4 = 0 or id < $4)
 order by id desc limit $5`

func (t *tables) entries(ctx context.Context, f AuditFilter) (found []AuditEntry, err error) {
	err = t.p.read(ctx, "reading the audit log", func() error {
		rows, err := t.p.db.QueryContext(ctx, t.p.sql(entriesSQL), f.Kind, f.Subject, f.Actor, f.Before, f.Limit)
		found, err = collect(rows, err, func(row scanner) (e AuditEntry, err error) {
			var before, after string
			err = row.Scan(&e.ID, &e.At, &e.Actor, &e.Login, &e.Action, &e.Kind, &e.Subject, &before, &after, &e.Note)
			if err == nil && before != "" {
				err = json.Unmarshal([]byte(before), &e.Before)
			}
			if err == nil && after != "" {
				err = json.Unmarshal([]byte(after), &e.After)
			}
			return e, err
		})
		return err
	})
	return found, err
}

// tenantConflict turns a violated constraint into the error that says whose fault it is.
func tenantConflict(t *TenantInfo, err error) error {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return err
	}
	switch answer.ConstraintName {
	case "tenants_schema":
		return conflict(t.ID, claim{what: "schema", name: t.Schema, where: t.Shard})
	case "tenants_role":
		return conflict(t.ID, claim{what: "role", name: t.Role, where: t.Shard})
	case "tenants_slug":
		return conflict(t.ID, claim{what: "slug", name: t.Slug})
	case "tenants_shard_fkey":
		return missing(t.Tenant, false, true) // removed since known looked
	case "tenants_plan_fkey":
		return missing(t.Tenant, true, false)
	}
	return err
}

// timeOrNull is the zero time as NULL.
func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func labelsText(labels map[string]string) (string, error) {
	if len(labels) == 0 {
		return "{}", nil
	}
	text, err := json.Marshal(labels)
	return string(text), err
}

func labelsFromText(text string) (labels map[string]string, err error) {
	if text == "{}" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(text), &labels); err != nil {
		return nil, fmt.Errorf("labels: %w", err)
	}
	return labels, nil
}
