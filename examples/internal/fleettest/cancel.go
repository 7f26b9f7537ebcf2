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

	f.await(shard, "1", "the statement has reached the server", ended)
	cancel()
	select {
	case err := <-ended:
		f.await(shard, "0", "the server has let go of the statement", nil)
		return err
	case <-time.After(patience):
		require.Fail(f.t, "the call did not return when its context ended")
		return nil
	}
}

// await polls the number of slow queries that run on the shard. A call that ends meanwhile fails the test.
func (f *Fleet) await(shard, want, why string, ended <-chan error) {
	f.t.Helper()
	late := time.After(patience)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		running := f.Outside(shard, `select count(*) from pg_stat_activity where datname = current_database() and state = 'active'
			and query like '%/* slow */%' and pid <> pg_backend_pid()`)
		if running == want {
			return
		}
		select {
		case <-look.C:
		case err := <-ended:
			require.NoError(f.t, err, why)
			require.Fail(f.t, "the call ended before its context", why)
		case <-late:
			require.Fail(f.t, why, "after %v: %s run, not %s", patience, running, want)
		}
	}
}
