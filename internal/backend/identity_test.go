package backend_test

import (
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/rls"
)

func TestATokenIsMadeAgainLongBeforeItEndsAndNotEachTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		keys, err := rls.ParseKeys("1 " + strings.Repeat("ab", 32))
		require.NoError(t, err)
		w := backend.NewTestWire(nil, io.Discard, "acme")
		w.Sign(keys[0].For("s1"), "acme")
		left := func(token string) time.Duration {
			expires, err := strconv.ParseInt(strings.Split(token, ":")[3], 10, 64)
			require.NoError(t, err)
			return time.Until(time.Unix(expires, 0))
		}
		first := w.Token()
		require.Equal(t, 5*time.Minute, left(first))
		made := map[string]bool{}
		for range 180 { // half an hour
			<-time.After(10 * time.Second) // of the bubble
			token := w.Token()
			made[token] = true
			require.GreaterOrEqual(t, left(token), 2*time.Minute, "whatever waits in a pooler has it in time")
		}
		require.Len(t, made, 12)
		w.Sign(keys[0].For("s1"), "globex")
		require.True(t, strings.HasSuffix(w.Token(), ":globex"))
		w.Sign(keys[0].For("s1"), "acme")
		require.True(t, strings.HasSuffix(w.Token(), ":acme"))
	})
}
