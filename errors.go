package shardedpg

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Conditions to branch on with errors.Is. They say that nothing of the caller's statement was sent, except for
// ErrShardUnavailable when a connection broke with work on it: pgconn.SafeToRetry tells. None matches driver.ErrBadConn.
var (
	// ErrNoTenant: the context names no tenant. A bug in the caller.
	ErrNoTenant = errors.New("no tenant in the context")
	// ErrInvalidTenant: the tenant ID is not one. Refuse the request that brought it.
	ErrInvalidTenant = resolver.ErrInvalidTenant
	// ErrTenantMismatch: a second tenant in a transaction, on a *sql.Conn, or in a context. A bug in the caller.
	ErrTenantMismatch = errors.New("tenant mismatch")
	// ErrTenantNotFound: the registry does not know the tenant.
	ErrTenantNotFound = resolver.ErrTenantNotFound
	// ErrTenantDisabled: the tenant is known and must not run statements now.
	ErrTenantDisabled = resolver.ErrTenantDisabled
	// ErrTenantReadOnly: the tenant is read-only and the statement writes.
	ErrTenantReadOnly = backend.ErrTenantReadOnly
	// ErrTenantBusy: the tenant has all the connections that its plan and its share of the shard allow, and waited too long
	// for one of them, or has too many statements waiting. Retry after Error.RetryAfter; if that is 0, read the text: the
	// tenant seems to wait for itself.
	ErrTenantBusy = limits.ErrTenantBusy
	// ErrRateLimited: the tenant sends more statements per second than its plan has. Retry after Error.RetryAfter.
	ErrRateLimited = limits.ErrRateLimited
	// ErrShardBusy: no connection became free in time, here or in PgBouncer. Retry later, unless there is no RetryAfter: then callers hold them all and
	// wait, perhaps for each other, and the text says what to do.
	ErrShardBusy = limits.ErrShardBusy
	// ErrShardUnavailable: the shard could not be reached, or the connection was lost. After three failed attempts to connect it
	// comes at once, until an attempt succeeds.
	ErrShardUnavailable = errors.New("shard unavailable")
	// ErrRegistryUnavailable: the registry could not be asked and nothing usable was cached. Retry later.
	ErrRegistryUnavailable = resolver.ErrRegistryUnavailable
	// ErrUnsafeRole: the shard's login could step around row-level security. Fix the role.
	ErrUnsafeRole = backend.ErrUnsafeRole
	// ErrStatementRefused: the guard does not let the statement through.
	ErrStatementRefused = backend.ErrStatementRefused
	// ErrPrologue: the server refused to put the tenant's settings in force. With a *pgconn.PgError of SQLSTATE 28000 in it, the
	// statement was sent, and the database did not believe the signature of the tenant: nothing of that statement took effect.
	ErrPrologue = errors.New("settings refused by the server")
)

// Stage is where on its way a statement was stopped.
type Stage string

// The stages, in the order of the path.
const (
	StageTenant    Stage = "tenant"
	StageRoute     Stage = "route"
	StageSlot      Stage = "slot"
	StageBackend   Stage = "backend"
	StagePrologue  Stage = "prologue"
	StageStatement Stage = "statement"
)

// Error is a refusal of the driver's own: what stopped a statement, for whom and where. PostgreSQL's errors are never
// wrapped in it, with one exception: see ErrPrologue. Its text holds no SQL, argument, password or connection string.
type Error struct {
	Stage      Stage
	Tenant     string        // empty when not known
	Shard      string        // empty when not known
	RetryAfter time.Duration // when to try again; 0 when waiting does not help or nobody knows
	Err        error

	sent bool // something of the caller's may have run
}

// Error returns "shardedpg: <stage>: tenant "acme" on shard "s1": <cause>".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("shardedpg: ")
	b.WriteString(string(e.Stage))
	b.WriteString(": ")
	if e.Tenant != "" {
		b.WriteString("tenant ")
		b.WriteString(strconv.Quote(cut(e.Tenant)))
		if e.Shard != "" {
			b.WriteString(" on ")
		} else {
			b.WriteString(": ")
		}
	}
	if e.Shard != "" {
		b.WriteString("shard ")
		b.WriteString(strconv.Quote(e.Shard))
		b.WriteString(": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// SafeToRetry reports whether nothing of the caller's statement was sent, in the form that pgconn.SafeToRetry asks for.
func (e *Error) SafeToRetry() bool { return !e.sent }

func cut(s string) string {
	const longest = 80
	if len(s) > longest {
		return s[:longest] + "…"
	}
	return s
}

// TimedOutByPlan reports whether the statement was ended by the statement_timeout of the tenant's plan, and not because
// a context ended: PostgreSQL gives both the SQLSTATE 57014. It relies on the server's messages being in English
// (lc_messages).
func TimedOutByPlan(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "57014" && strings.Contains(pg.Message, "statement timeout")
}

// registryError makes sure that a failure to ask the registry matches ErrRegistryUnavailable.
func registryError(err error) error {
	if errors.Is(err, ErrRegistryUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRegistryUnavailable, err)
}
