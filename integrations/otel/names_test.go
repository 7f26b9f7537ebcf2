package otelshard

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func TestCommandIsOneOfFew(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"select 1":                       "SELECT",
		"  -- why\n/* and */ (select 1)": "SELECT",
		"With x as (select 1) table x":   "WITH",
		";insert into t values (1)":      "INSERT",
		"":                               "",
		"-- nothing":                     "",
		"/* open":                        "",
		"selectx":                        "",
		"acme-4711":                      "",
	} {
		require.Equal(t, want, command(query), query)
	}
}

func TestErrorTypeOfAWaitThatADeadlineEnded(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"shard_busy":        fmt.Errorf("%w: %w", shardedpg.ErrShardBusy, context.DeadlineExceeded),
		"deadline_exceeded": context.DeadlineExceeded,
		"canceled":          fmt.Errorf("reading: %w", context.Canceled),
		"57014":             &pgconn.PgError{Code: "57014"},
		"shard_unavailable": fmt.Errorf("%w: %w", shardedpg.ErrShardUnavailable, &pgconn.PgError{Code: "53300"}),
		"_OTHER":            errors.New("something with a value in it"),
	} {
		kind, _ := errorType(err)
		require.Equal(t, want, kind)
	}
}
