package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// record is what an Apply or a Rollback leaves in the database.
type record struct {
	ID      int64
	Action  string
	Undoes  *int64
	Note    string
	Config  Config
	Changes []Change
}

// Entry is a record without its SQL.
type Entry struct {
	ID     int64     `json:"id"`
	At     time.Time `json:"at"`
	Login  string    `json:"login"`
	Action string    `json:"action"` // apply or rollback
	Undoes int64     `json:"undoes,omitempty"`
	Undone bool      `json:"undone,omitempty"`
	Note   string    `json:"note,omitempty"`
	Count  int       `json:"changes"`
}

// recordsSQL makes the table of records, which nobody but its owner may read.
const recordsSQL = `create table ` + RecordSchema + `.rls_records (
  id       bigint generated always as identity primary key,
  at       timestamptz not null default clock_timestamp(),
  login    text not null default session_user,
  action   text not null check (action in ('apply', 'rollback')),
  undoes   bigint unique references ` + RecordSchema + `.rls_records,
  note     text not null,
  config   jsonb not null,
  changes  jsonb not null
)`

func keep(ctx context.Context, tx pgx.Tx, r record) (id int64, err error) {
	where, err := lookAtRecords(ctx, tx, r.Config.App)
	if err == nil {
		err = makeRecords(ctx, tx, where)
	}
	if err == nil { // what was made just now, too
		_, err = lookAtRecords(ctx, tx, r.Config.App)
	}
	if err != nil {
		return 0, fmt.Errorf("keeping a record: %w", err)
	}
	config, err := json.Marshal(r.Config)
	if err != nil {
		return 0, err
	}
	changes, err := json.Marshal(r.Changes)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, `insert into `+RecordSchema+`.rls_records (action, undoes, note, config, changes) values ($1, $2, $3, $4, $5) returning id`,
		r.Action, r.Undoes, r.Note, string(config), string(changes)).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("keeping a record: %w", err)
	}
	return id, nil
}

// newest returns the newest apply that was not taken back.
func newest(ctx context.Context, tx pgx.Tx) (r record, err error) {
	where, err := lookAtRecords(ctx, tx, "")
	if err != nil {
		return r, err
	}
	if !where.Table {
		return r, ErrNothing
	}
	var config, changes string
	err = tx.QueryRow(ctx, `select id, config::text, changes::text from `+RecordSchema+`.rls_records r
 where action = 'apply' and not exists (select from `+RecordSchema+`.rls_records u where u.undoes = r.id) order by id desc limit 1`).
		Scan(&r.ID, &config, &changes)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, ErrNothing
	}
	if err != nil {
		return r, err
	}
	if err := errors.Join(json.Unmarshal([]byte(config), &r.Config), json.Unmarshal([]byte(changes), &r.Changes)); err != nil {
		return r, err
	}
	_, err = lookAtRecords(ctx, tx, r.Config.App)
	return r, err
}

// Newest returns what a Rollback would do, and its record; it changes nothing.
func Newest(ctx context.Context, conn *pgx.Conn) (*Result, error) {
	tx, err := begin(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("rls: reading records: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	last, err := newest(ctx, tx)
	if err != nil {
		return nil, fmt.Errorf("rls: reading records: %w", err)
	}
	result := &Result{Undoes: last.ID, Changes: []Change{}}
	for i := len(last.Changes) - 1; i >= 0; i-- {
		c := last.Changes[i]
		if len(c.Undo) > 0 {
			result.Changes = append(result.Changes, Change{
				Object: c.Object, Property: c.Property, Was: c.Want, Want: c.Was, Do: c.Undo, Undo: c.Do, Relation: c.Relation, OID: c.OID,
			})
		}
	}
	return result, nil
}

// Applied returns the configuration of the newest apply, so that what was declared for a database need not be said again.
// It is false when there is none.
func Applied(ctx context.Context, conn *pgx.Conn) (Config, bool, error) {
	tx, err := begin(ctx, conn)
	if err != nil {
		return Config{}, false, fmt.Errorf("rls: reading records: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	last, err := newest(ctx, tx)
	if errors.Is(err, ErrNothing) {
		return Config{}, false, nil
	}
	if err != nil {
		return Config{}, false, fmt.Errorf("rls: reading records: %w", err)
	}
	return last.Config, true, nil
}

// Records lists what was applied and rolled back, newest first.
func Records(ctx context.Context, conn *pgx.Conn) ([]Entry, error) {
	tx, err := begin(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("rls: reading records: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	all := []Entry{}
	where, err := lookAtRecords(ctx, tx, "")
	if err != nil {
		return nil, fmt.Errorf("rls: reading records: %w", err)
	}
	if !where.Table {
		return all, nil
	}
	err = each(ctx, tx, func(e Entry) { all = append(all, e) }, `
select id, at, login, action, coalesce(undoes, 0), exists (select from `+RecordSchema+`.rls_records u where u.undoes = r.id), note, jsonb_array_length(changes)
  from `+RecordSchema+`.rls_records r order by id desc`)
	if err != nil {
		return nil, fmt.Errorf("rls: reading records: %w", err)
	}
	return all, nil
}
