package connstring_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
)

const secret = "opensesame"

func TestWhatIsWrongWithAConnectionStringIsNamedAndTheStringIsNot(t *testing.T) {
	t.Parallel()
	garbage := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(garbage, []byte("none"), 0o600))
	for text, want := range map[string]string{
		"sslmode=maybe": "sslmode is invalid",
		"sslmode=verify-full sslrootcert=/no/such/ca.pem": "unable to read CA file: open /no/such/ca.pem: no such file or directory",
		"sslrootcert=" + garbage:                          "unable to add CA to cert pool",
		"sslmode=require sslcert=/no/such/cert.pem":       `both "sslcert" and "sslkey" are required`,
		"servicefile=/no/such/file service=s":             "failed to read service file: /no/such/file",
		"connect_timeout=2s":                              "invalid connect_timeout",
		"port=" + secret:                                  "invalid port",
		"target_session_attrs=writer":                     "unknown target_session_attrs value: writer",
		"default_query_exec_mode=" + secret:               "invalid default_query_exec_mode",
		"statement_cache_capacity=" + secret:              "cannot parse statement_cache_capacity",
		"pool_max_conn_lifetime=60":                       "cannot parse pool_max_conn_lifetime",
		"password=open " + secret:                         "it is broken",
		"password='" + secret:                             "it is broken",
	} {
		_, err := connstring.Parse("host=127.0.0.1 user=u password=" + secret + " " + text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), secret, text)
		require.NotContains(t, err.Error(), "127.0.0.1", text)
	}
	for _, text := range []string{
		"postgres://u:" + secret + "@h:x:y/d", "postgres://u:open" + secret + "/x@h/d", "postgres://u:%" + secret + "@h/d", "`: " + secret,
		"host=h password='`: " + secret + "' port=x", "host='`: (" + secret + ")",
	} {
		_, err := connstring.Parse(text)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), secret, text)
	}
}

func TestWhatIsForAPoolIsNotForTheServer(t *testing.T) {
	t.Parallel()
	cfg, err := connstring.Parse("host=h pool_max_conns=3 pool_max_conn_lifetime=1h pool_max_conn_idle_time=1m TimeZone=UTC")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"TimeZone": "UTC"}, cfg.RuntimeParams)
}
