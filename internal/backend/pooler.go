package backend

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// PoolFull reports whether PgBouncer has let a statement wait for a server connection for as long as it may, and sent nothing on.
func PoolFull(err error) bool { return poolerSaid(err, "query_wait_timeout") }

// Unsent reports whether PgBouncer has ended a connection instead of sending the statement on: it has no server connection and cannot
// make one, or does not understand the client's prepared statements, which comes in front of their being executed.
func Unsent(err error) bool {
	return poolerSaid(err, "server login has been failing") || poolerSaid(err, "prepared statement ")
}

func poolerSaid(err error, message string) bool {
	var server *pgconn.PgError
	// No SQL raises a FATAL error, so this one is no tenant's.
	return errors.As(err, &server) && pooler(server) && server.Severity == "FATAL" && strings.HasPrefix(server.Message, message)
}

func pooler(server *pgconn.PgError) bool { return strings.HasPrefix(server.Code, "08") }

// Cut reports whether an error is the last word of a pooler about a connection, and not the server's, whose errors name a place
// in its source. The server's answers come in order, so an error in front of the caller's part means that this did not run. A
// pooler's word comes in place of answers: it says nothing of what has run.
func (b *Backend) Cut(err *pgconn.PgError) bool {
	return b.wire.pooled && err.Severity == "FATAL" && err.File == ""
}
