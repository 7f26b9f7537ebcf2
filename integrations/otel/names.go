package otelshard

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// spanName is "SELECT eu", with whatever of the two is known.
func spanName(operation, shard string) string {
	switch {
	case operation == "" && shard == "":
		return "postgresql"
	case operation == "":
		return shard
	case shard == "":
		return operation
	}
	return operation + " " + shard
}

// commands are the names that an operation may have. Any other word would let a program's mistakes make names without end.
var commands = func() map[string]string {
	known := make(map[string]string)
	for c := range strings.FieldsSeq(`SELECT INSERT UPDATE DELETE MERGE WITH VALUES TABLE CALL DO COPY BEGIN START COMMIT END ROLLBACK
		ABORT SAVEPOINT RELEASE SET RESET SHOW LOCK LISTEN UNLISTEN NOTIFY PREPARE EXECUTE DEALLOCATE DISCARD DECLARE FETCH MOVE CLOSE
		CREATE ALTER DROP TRUNCATE COMMENT GRANT REVOKE ANALYZE VACUUM EXPLAIN CLUSTER REINDEX REFRESH CHECKPOINT`) {
		known[c] = c
	}
	return known
}()

// command returns the SQL command that a statement begins with, or "" when it is not one of PostgreSQL's.
func command(query string) string {
	for {
		query = strings.TrimLeft(query, " \t\r\n\f(;")
		switch {
		case strings.HasPrefix(query, "--"):
			_, query, _ = strings.Cut(query, "\n")
		case strings.HasPrefix(query, "/*"): // a nested one ends too early, and gives no command
			_, query, _ = strings.Cut(query, "*/")
		default:
			end := 0
			for end < len(query) && (query[end]|0x20) >= 'a' && (query[end]|0x20) <= 'z' {
				end++
			}
			return commands[strings.ToUpper(query[:end])]
		}
	}
}

// conditions are the error types of the driver's own errors and of contexts. The driver's come first: a wait that a deadline
// ended is both.
var conditions = []struct {
	err  error
	name string
}{
	{shardedpg.ErrNoTenant, "no_tenant"},
	{shardedpg.ErrInvalidTenant, "invalid_tenant"},
	{shardedpg.ErrTenantMismatch, "tenant_mismatch"},
	{shardedpg.ErrTenantNotFound, "tenant_not_found"},
	{shardedpg.ErrTenantDisabled, "tenant_disabled"},
	{shardedpg.ErrTenantReadOnly, "tenant_read_only"},
	{shardedpg.ErrTenantBusy, "tenant_busy"},
	{shardedpg.ErrRateLimited, "rate_limited"},
	{shardedpg.ErrShardBusy, "shard_busy"},
	{shardedpg.ErrShardUnavailable, "shard_unavailable"},
	{shardedpg.ErrRegistryUnavailable, "registry_unavailable"},
	{shardedpg.ErrUnsafeRole, "unsafe_role"},
	{shardedpg.ErrStatementRefused, "statement_refused"},
	{shardedpg.ErrPrologue, "prologue"},
	{pgx.ErrTxCommitRollback, "commit_rolled_back"},
	{context.DeadlineExceeded, "deadline_exceeded"},
	{context.Canceled, "canceled"},
	{errPanic, "panic"},
}

// mostStates is more than a program meets.
const mostStates = 100

// states are the SQLSTATEs that metrics have been counted by. A statement can make up others (RAISE … USING ERRCODE), and the series
// of a metric are limited: each that is one too many takes the place of a tenant's who makes up none.
type states struct {
	mu   sync.Mutex
	seen map[string]bool
}

// counts reports whether metrics are counted by a state.
func (s *states) counts(state string) bool {
	if state == "" {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.seen[state] && len(s.seen) < mostStates {
		if s.seen == nil {
			s.seen = make(map[string]bool)
		}
		s.seen[state] = true
	}
	return s.seen[state]
}

// errPanic stands for a panic in a caller's code, which goes on to the caller.
var errPanic = errors.New("panic")

// errorType returns what kind of error this is, and the SQLSTATE if a server sent one. Never its text: PostgreSQL repeats
// values in it, and pgx parts of the connection string.
func errorType(err error) (kind, state string) {
	if err == nil {
		return "", ""
	}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		state = server.Code
	}
	for _, c := range conditions {
		if errors.Is(err, c.err) {
			return c.name, state
		}
	}
	if state != "" {
		return state, state
	}
	return "_OTHER", ""
}
