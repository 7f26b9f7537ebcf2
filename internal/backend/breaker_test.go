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
	return b.Try(ctx, func(context.Context) error {
		time.Sleep(took) //nolint:forbidigo // in a synctest bubble
		return err
	}, func(error) {})
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
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // in a synctest bubble
		var down *backend.DownError
		require.ErrorAs(t, b.Refuses(), &down)
		require.Equal(t, 150*time.Millisecond, down.RetryAfter)
		require.ErrorIs(t, down, gone)
		require.ErrorAs(t, attempt(b, t.Context(), 0, nil), &down, "not even tried")

		time.Sleep(151 * time.Millisecond) //nolint:forbidigo // in a synctest bubble
		require.NoError(t, b.Refuses())
		require.ErrorIs(t, attempt(b, t.Context(), 0, gone), gone, "one attempt is enough now")
		require.ErrorAs(t, b.Refuses(), &down)
		require.Equal(t, 250*time.Millisecond, down.RetryAfter)

		time.Sleep(250*time.Millisecond + 1) //nolint:forbidigo // in a synctest bubble
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
		err  error
		dead bool
	}{
		"wrong password":                            {err: refusal("28P01")},
		"no such database":                          {err: refusal("3D000")},
		"too many connections":                      {err: refusal("53300")},
		"an unsafe login":                           {err: backend.ErrUnsafeRole},
		"starting up":                               {err: refusal("57P03"), dead: true},
		"a session that a tenant has ended":         {err: refusal("57P01")},
		"a pooler, for whatever reason":             {err: refusal("08P01")},
		"connecting took longer than the limit":     {err: context.DeadlineExceeded, dead: true},
		"the program's own hook for the connection": {err: backend.NewHookError(context.DeadlineExceeded)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := backend.NewTestBreaker()
				for range 10 {
					_ = attempt(b, t.Context(), 0, c.err)
				}
				require.Equal(t, c.dead, len(b.Changes()) > 0)
			})
		})
	}
}

func TestWhatAPoolerSaysInPlaceOfAnswers(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]struct{ full, unsent bool }{
		"query_wait_timeout": {full: true},
		"server login has been failing, try again later (server_login_retry)":        {unsent: true},
		"server login has been failing, cached error: too many (server_login_retry)": {unsent: true},
		"prepared statement name is already in use":                                  {unsent: true},
		"server conn crashed?": {},
		"query timeout":        {},
		"client_idle_timeout":  {},
	} {
		said := pgconn.PgError{Severity: "FATAL", Code: "08P01", Message: message}
		require.Equal(t, want, struct{ full, unsent bool }{backend.PoolFull(&said), backend.Unsent(&said)}, message)
		raised := said
		raised.Severity = "ERROR" // as any tenant can
		require.False(t, backend.PoolFull(&raised) || backend.Unsent(&raised), message)
	}
}

func TestAnAttemptGoesOnWithoutItsCaller(t *testing.T) {
	t.Parallel()
	gone := &net.OpError{Op: "dial", Err: errors.New("refused")}
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		wait, took time.Duration // of the caller, and of the attempt
		err, want  error
		end        time.Duration // of the attempt
		dead       bool          // after three of them
		hook       bool          // that it was in when it was ended
		heard      bool          // the server has answered
	}{
		"and succeeds":                    {wait: ms, took: 500 * ms, end: 500 * ms},
		"and fails":                       {wait: ms, took: 500 * ms, err: gone, want: gone, end: 500 * ms, dead: true},
		"for longer where it is heard":    {wait: ms, took: 1200 * ms, heard: true, end: 1200 * ms},
		"until it no longer is":           {wait: ms, took: time.Hour, heard: true, want: context.DeadlineExceeded, end: 1500 * ms, dead: true},
		"for a second":                    {wait: ms, took: time.Hour, want: context.DeadlineExceeded, end: time.Second, dead: true},
		"not when that was in a hook":     {wait: ms, took: 500 * ms, err: backend.NewHookError(gone), want: gone, end: 500 * ms},
		"nor when a hook had to be ended": {wait: ms, took: time.Hour, want: context.Canceled, end: time.Second, hook: true},
		"who has waited for a second":     {wait: time.Second, took: time.Hour, want: context.DeadlineExceeded, end: time.Second, dead: true},
		"who has waited even longer":      {wait: 3 * time.Second, took: time.Hour, want: context.DeadlineExceeded, end: 3 * time.Second, dead: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := backend.NewTestBreaker()
				late := make(chan error, 3)
				start := time.Now()
				for range 3 {
					go func() {
						ctx, cancel := context.WithTimeout(t.Context(), c.wait)
						defer cancel()
						err := b.Try(ctx, func(ctx context.Context) error {
							if c.heard {
								time.AfterFunc(500*ms, func() { backend.Hear(ctx) })
							}
							select {
							case <-time.After(c.took):
								return c.err
							case <-ctx.Done():
								if c.hook {
									return backend.NewHookError(ctx.Err())
								}
								return ctx.Err()
							}
						}, func(err error) { late <- err })
						if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != c.wait {
							t.Errorf("got %v after %v", err, took)
						}
					}()
				}
				for range 3 {
					require.ErrorIs(t, <-late, c.want)
				}
				require.Equal(t, c.end, time.Since(start))
				require.Equal(t, c.dead, len(b.Changes()) > 0)
			})
		})
	}
}

func TestAPanicInAHookIsAnError(t *testing.T) {
	t.Parallel()
	b := backend.NewTestBreaker()
	err := b.Try(t.Context(), func(context.Context) error { panic("no vault") }, nil)
	require.EqualError(t, err, "BeforeConnect: panic: no vault")
}
