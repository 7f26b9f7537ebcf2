package fleettest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"
)

// SlowQuery is what a recipe runs to have its request cancelled: it would take minutes, and names itself.
const SlowQuery = "select pg_sleep(300)::text /* slow */"

// CancelMidway calls run with a request of the tenant, ends the request as soon as the server works on SlowQuery, and
// returns the error of run. By then the server has stopped working on it.
func (f *Fleet) CancelMidway(tenant, shard string, run func(ctx context.Context) error) error {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.As(tenant))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()

	f.await(shard, "1", "the statement has reached the server")
	cancel()
	select {
	case err := <-ended:
		f.await(shard, "0", "the server has let go of the statement")
		return err
	case <-time.After(patience):
		require.Fail(f.t, "the call did not return when its context ended")
		return nil
	}
}

// await polls the number of slow queries that run on the shard.
func (f *Fleet) await(shard, want, why string) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		return f.Outside(shard, `select count(*) from pg_stat_activity where datname = current_database() and state = 'active'
			and query like '%/* slow */%' and pid <> pg_backend_pid()`) == want
	}, patience, 5*time.Millisecond, why)
}
