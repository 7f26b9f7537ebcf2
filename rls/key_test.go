package rls_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/rls"
)

func keys(t testing.TB, text string) rls.Keys {
	t.Helper()
	all, err := rls.ParseKeys(text)
	require.NoError(t, err)
	return all
}

func TestAKeyFileIsReadWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	secret := []byte(strings.Repeat("\x01\xff", 16))
	inHex, in64 := hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret)
	all := keys(t, "# ours\n\n 2026-01 "+inHex+"\r\nb\t"+in64+"\nc "+strings.TrimRight(in64, "=")+"\n")
	require.Equal(t, []string{"2026-01", "b", "c"}, all.IDs())
	require.Equal(t, strings.TrimPrefix(all[0].For("s1").Name(), "2026-01"), strings.TrimPrefix(all[2].For("s1").Name(), "c"), "the same bytes")
	for text, says := range map[string]string{
		"":                                    "it holds no key",
		"# 1 " + inHex:                        "it holds no key",
		inHex:                                 "line 1 is no key",
		"1 " + inHex + " x":                   "line 1 is no key",
		"1:2 " + inHex:                        "line 1 is no key",
		strings.Repeat("k", 33) + " " + inHex: "line 1 is no key",
		"1 " + inHex + "\n2 " + inHex[2:]:     "line 2: the key is not 32 bytes",
		"1 " + in64[4:]:                       "line 1: the key is not 32 bytes",
		"1 " + inHex + "\n1 " + in64:          "line 2: another key has this ID",
	} {
		_, err := rls.ParseKeys(text)
		require.ErrorContains(t, err, says, "%q", text)
		require.NotContains(t, err.Error(), "01ff", "an error shows no key")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		for _, value := range []any{all, all[0], *all[0].For("s1"), all[0].For("s1")} {
			text := fmt.Sprintf(verb, value)
			require.NotContains(t, text, "01ff")
			require.NotContains(t, text, "255")
			require.NotContains(t, text, "0xff")
		}
	}
}

func TestATokenIsAnHMACThatAShardCanMakeOfPads(t *testing.T) {
	t.Parallel()
	all := keys(t, "1 "+strings.Repeat("ab", 32)+"\n2 "+strings.Repeat("cd", 32))
	key := all[0].For("s1")
	token := string(key.AppendToken(nil, 7, 99, "a:b"))
	mac, claim, found := strings.Cut(token, ":")
	require.True(t, found)
	require.Equal(t, "1:7:99:a:b", claim)
	inner, outer := key.Pads()
	first := sha256.Sum256(append(inner, claim...))
	second := sha256.Sum256(append(outer, first[:]...))
	require.Equal(t, hex.EncodeToString(second[:]), mac)
	for _, other := range []*rls.ShardKey{all[0].For("s2"), all[1].For("s1"), all[0].For("")} {
		require.NotEqual(t, mac[:64], string(other.AppendToken(nil, 7, 99, "a:b"))[:64])
		require.NotEqual(t, strings.TrimLeft(key.Name(), "12"), strings.TrimLeft(other.Name(), "12"))
	}

	chosen, err := all.Choose("s1", []string{all[0].For("s1").Name(), all[1].For("s1").Name()})
	require.NoError(t, err)
	require.Equal(t, "2", chosen.ID, "the newest of both")
	chosen, err = all.Choose("s1", []string{all[1].For("s2").Name(), all[0].For("s1").Name()})
	require.NoError(t, err)
	require.Equal(t, "1", chosen.ID, "the other is another shard's")
	_, err = all.Choose("s1", nil)
	require.EqualError(t, err, "the shard has none of the keys of the key file (1, 2), but none; run shardedpg rls keys install")
}

func TestAKeyFileIsReadAgainWhenItChangesAndKeptWhenItCannotBeRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys")
	write := func(mode os.FileMode, text string) {
		require.NoError(t, os.WriteFile(path+".new", []byte(text), mode))
		require.NoError(t, os.Chmod(path+".new", mode))
		require.NoError(t, os.Rename(path+".new", path))
	}
	line := func(id string) string { return id + " " + strings.Repeat("ab", 32) + "\n" }
	write(0o604, line("1"))
	_, err := rls.OpenKeyFile(path, nil)
	require.ErrorContains(t, err, "open to everybody on this machine: chmod o= it")
	_, err = rls.OpenKeyFile(t.TempDir(), nil)
	require.Error(t, err)
	write(0o640, line("1"))
	synctest.Test(t, func(t *testing.T) {
		var failures []string
		f, err := rls.OpenKeyFile(path, func(err error) { failures = append(failures, err.Error()) })
		require.NoError(t, err)
		later := func() *rls.Keys {
			<-time.After(time.Second) // of the bubble
			return f.Keys()
		}
		first := f.Keys()
		require.Equal(t, []string{"1"}, first.IDs())
		require.Same(t, first, later(), "nothing has changed")
		write(0o600, line("1")+line("2"))
		require.Same(t, first, f.Keys(), "it is not looked at for each statement")
		second := later()
		require.Equal(t, []string{"1", "2"}, second.IDs())
		require.Equal(t, []string{"1"}, first.IDs())
		write(0o600, "1 broken")
		require.Same(t, second, later())
		require.Same(t, second, later())
		require.NoError(t, os.Remove(path))
		require.Same(t, second, later())
		require.Len(t, failures, 2, "each reason is told once: %v", failures)
		write(0o600, line("2"))
		require.Equal(t, []string{"2"}, later().IDs())
	})
}
