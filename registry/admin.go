package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Admin changes a registry and lists what is in it. [Postgres] and [Memory] have one; [Static] has one that only reads.
// Any number of goroutines and of programs may use it at the same time.
//
// Each change is checked, written, recorded in the audit log and told to all running drivers, or nothing of it happens.
// The rules are here, once; stores only keep rows.
type Admin struct {
	store backing
	actor string
	sizer Sizer       // for shards with MaxBytes
	sizes measured    // what it found, for a short time
	first *FirstSight // nil: unknown tenants are refused
}

// backing is what a kind of store keeps rows in.
type backing interface {
	// change runs do in a transaction, which is undone when do fails. It may run do again when another transaction got
	// in between.
	change(ctx context.Context, what string, do func(tx *change) error) error
	// find returns the tenants that filter describes, by ID.
	find(ctx context.Context, filter TenantFilter) ([]TenantInfo, error)
	// entries returns records of the audit log, newest first.
	entries(ctx context.Context, filter AuditFilter) ([]AuditEntry, error)
}

// change is one transaction, as the rules see it.
//
// Whoever writes shards or plans, or chooses a shard, calls lock first; rows of tenants are locked by get, more than one
// of them only in the order of their IDs. So there is no deadlock.
type change struct {
	ledger
	census
	shards  rows[Shard]
	plans   rows[Plan]
	tenants rows[TenantInfo]
	graves  rows[grave]

	refusal error // why this store takes no changes, if it takes none
}

// rows is one table inside a transaction.
type rows[T any] interface {
	// get returns the row with that key, or nil. Rows of tenants stay locked until the transaction ends.
	get(ctx context.Context, key string) (*T, error)
	// all returns all rows by key.
	all(ctx context.Context) ([]T, error)
	// put stores a row: before is what get returned, nil for a new one; a nil after deletes.
	put(ctx context.Context, before, after *T) error
}

// ledger is the rest of a transaction.
type ledger interface {
	// lock lets one transaction at a time choose shards and change them. It ends with the transaction and is held for
	// rows only: nobody runs DDL or asks a shard anything under it.
	lock(ctx context.Context) error
	// record writes to the audit log and tells the watchers.
	record(ctx context.Context, entry AuditEntry, notification string) error
}

// census counts tenants.
type census interface {
	// population counts those of each shard. It reads all of them.
	population(ctx context.Context) (map[string]population, error)
	// inhabitants counts those of one shard.
	inhabitants(ctx context.Context, shard string) (int, error)
}

type population struct{ tenants, schemas int }

// grave keeps the ID of a tenant that was purged, so that no other tenant gets it: backups and logs go on naming it.
type grave struct {
	ID    string           `json:"id"`
	Shard string           `json:"shard"`
	Rows  map[string]int64 `json:"rows,omitempty"` // purged, by table
}

// kind is what save must know about a type of rows.
type kind[T any] struct {
	name   string
	key    func(*T) string
	public func(*T) any    // what the audit log may show
	secret func(*T) string // what it may not, but is a change, too
	tell   func(*T) string // the notification
}

func flushAll[T any](*T) string { return flushNotification }
func nothing[T any](*T) string  { return "" }

var (
	shardKind = kind[Shard]{
		name: "shard", key: func(s *Shard) string { return s.Name }, tell: flushAll[Shard],
		public: func(s *Shard) any { return s.public() }, secret: func(s *Shard) string { return s.DSN + "\x00" + s.AdminDSN },
	}
	planKind = kind[Plan]{
		name: "plan", key: func(p *Plan) string { return p.Name }, tell: flushAll[Plan],
		public: func(p *Plan) any { return publicPlan(*p) }, secret: nothing[Plan],
	}
	tenantKind = kind[TenantInfo]{
		name: "tenant", key: func(t *TenantInfo) string { return t.ID },
		tell: func(t *TenantInfo) string { return tenantNotification + t.ID },
		public: func(t *TenantInfo) any {
			shown := *t
			shown.Created, shown.Updated = time.Time{}, time.Time{}
			return shown
		},
		secret: nothing[TenantInfo],
	}
)

// save writes a row with its audit record and its notification, if before and after differ. Nothing else writes shards,
// plans and tenants.
func save[T any](
	ctx context.Context, tx *change, k kind[T], table rows[T], action, note string, before, after *T,
) (changed bool, err error) {
	if tx.refusal != nil {
		return false, tx.refusal
	}
	entry := AuditEntry{Action: action, Kind: k.name, Note: note}
	hidden := before != nil && after != nil && k.secret(before) != k.secret(after)
	if entry.Before, err = publicFields(k, before, false); err != nil {
		return false, err
	}
	if entry.After, err = publicFields(k, after, hidden); err != nil {
		return false, err
	}
	if before != nil && after != nil && reflect.DeepEqual(entry.Before, entry.After) {
		return false, nil
	}
	some := before
	if after != nil {
		some = after
	}
	entry.Subject = k.key(some)
	if err := table.put(ctx, before, after); err != nil {
		return false, err
	}
	return true, tx.record(ctx, entry, k.tell(some))
}

// publicFields returns what the audit log shows of a row.
func publicFields[T any](k kind[T], row *T, secretChanged bool) (fields map[string]any, err error) {
	if row == nil {
		return nil, nil
	}
	text, err := json.Marshal(k.public(row))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	for _, never := range []string{"created", "updated"} {
		delete(fields, never)
	}
	if secretChanged {
		fields["dsn"] = "changed"
	}
	return fields, nil
}

// view runs a read in a transaction.
func view[T any](ctx context.Context, a *Admin, what string, read func(tx *change) (T, error)) (got T, err error) {
	err = a.store.change(ctx, what, func(tx *change) (err error) {
		got, err = read(tx)
		return err
	})
	return got, err
}

// must turns a missing row into the error that says so.
func must[T any](row *T, err, notFound error, key string) (*T, error) {
	if err == nil && row == nil {
		err = fmt.Errorf("%w: %q", notFound, cut(key))
	}
	return row, err
}
