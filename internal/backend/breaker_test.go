package backend_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/backend"
)

func attempt(b *backend.TestBreaker, ctx context.Context, took time.Duration, err error) error {
	return b.Try(ctx, func() error {
		time.Sleep(took) //nolint:forbidigo // in a synctest bubble
		return err
	})
}

func TestThreeFailedAttemptsInARowFindAShardDead(t *testing.T) {
	t.Parallel()
	gone := &net.OpError{Op: "dial", Err: errors.New("refused")}
	synctest.Test(t, func(t *testing.T) {
		b := backend.NewTestBreaker()
		for range 2 {
			require.ErrorIs(t, attempt(b, t.Context(), 0, gone), gone)
		}
		require.NoError(t, attempt(b, t.Context(), 0, nil), "one that succeeds starts the count again")
		for range 3 {
			require.NoError(t, b.Refuses())
			require.ErrorIs(t, attempt(b, t.Context(), 0, gone), gone)
		}
		time.Sleep(300 * time.Millisecond) //nolint:forbidigo // in a synctest bubble
		var down *backend.DownError
		require.ErrorAs(t, b.Refuses(), &down)
		require.Equal(t, 700*time.Millisecond, down.RetryAfter)
		require.ErrorIs(t, down, gone)
		require.ErrorAs(t, attempt(b, t.Context(), 0, nil), &down, "not even tried")

		time.Sleep(701 * time.Millisecond) //nolint:forbidigo // in a synctest bubble
		require.NoError(t, b.Refuses())
		require.ErrorIs(t, attempt(b, t.Context(), 0, gone), gone, "one attempt is enough now")
		require.ErrorAs(t, b.Refuses(), &down)
		require.Equal(t, time.Second, down.RetryAfter)

		time.Sleep(time.Second + 1) //nolint:forbidigo // in a synctest bubble
		probe := make(chan error)
		go func() { probe <- attempt(b, t.Context(), time.Second, nil) }()
		synctest.Wait()
		require.ErrorAs(t, b.Refuses(), &down, "nor is it waited for")
		require.ErrorAs(t, attempt(b, t.Context(), 0, nil), &down, "another attempt is to tell")
		require.Zero(t, down.RetryAfter)
		require.NoError(t, <-probe)
		require.NoError(t, b.Refuses())
		require.NoError(t, attempt(b, t.Context(), 0, nil))
		require.Equal(t, []bool{true, false}, b.Changes())
	})
}

func TestWhatSaysNothingOfTheServerDoesNotCount(t *testing.T) {
	t.Parallel()
	refusal := func(code string) error { return &pgconn.PgError{Code: code} }
	for name, c := range map[string]struct {
		err   error
		took  time.Duration
		ended bool // the caller's context
		dead  bool
	}{
		"wrong password":                            {err: refusal("28P01")},
		"no such database":                          {err: refusal("3D000")},
		"too many connections":                      {err: refusal("53300")},
		"an unsafe login":                           {err: backend.ErrUnsafeRole},
		"starting up":                               {err: refusal("57P03"), dead: true},
		"a session that a tenant has ended":         {err: refusal("57P01")},
		"a pooler, for whatever reason":             {err: refusal("08P01")},
		"a caller that gave up early":               {err: context.DeadlineExceeded, took: 999 * time.Millisecond, ended: true},
		"a caller that waited long enough":          {err: context.DeadlineExceeded, took: time.Second, ended: true, dead: true},
		"connecting took longer than the limit":     {err: context.DeadlineExceeded, dead: true},
		"the program's own hook for the connection": {err: backend.NewHookError(context.DeadlineExceeded)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := backend.NewTestBreaker()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.ended {
					cancel()
				}
				for range 10 {
					_ = attempt(b, ctx, c.took, c.err)
				}
				require.Equal(t, c.dead, len(b.Changes()) > 0)
			})
		})
	}
}
