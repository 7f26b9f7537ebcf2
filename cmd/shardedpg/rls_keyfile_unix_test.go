//go:build unix

package main

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/rls"
)

// Programs read the file as another user than the operator's: what they cannot read any more they would not rotate to.
func TestAKeyFileStaysWhoseItIsAndWhereItIs(t *testing.T) {
	t.Parallel()
	uid, gid := 1234, 2345
	if os.Getuid() != 0 { // only root gives files away; others to their groups
		groups, err := os.Getgroups()
		require.NoError(t, err)
		uid, gid = os.Getuid(), append(groups, os.Getgid())[0]
	}
	dir := t.TempDir()
	file, link := filepath.Join(dir, "keys"), filepath.Join(dir, "link")
	a := &app{out: io.Discard, notes: io.Discard}
	for i, run := range []func() error{
		func() error { return (&keysGenerate{keyFile: keyFile{KeyFile: file}}).Run(a) },
		func() error { return (&keysGenerate{keyFile: keyFile{KeyFile: link}}).Run(a) },
		func() error { return (&keysForget{ID: "1", keyFile: keyFile{KeyFile: link}}).Run(a) },
	} {
		require.NoError(t, run())
		info, err := os.Lstat(file)
		require.NoError(t, err)
		if i == 0 {
			require.Equal(t, os.FileMode(0o600), info.Mode(), "a new one")
			require.NoError(t, os.Chown(file, uid, gid))
			require.NoError(t, os.Chmod(file, 0o640))
			require.NoError(t, os.Symlink("keys", link))
			continue
		}
		owner := info.Sys().(*syscall.Stat_t)
		require.Equal(t, []uint32{uint32(uid), uint32(gid)}, []uint32{owner.Uid, owner.Gid})
		require.Equal(t, os.FileMode(0o640), info.Mode())
		info, err = os.Lstat(link)
		require.NoError(t, err)
		require.NotZero(t, info.Mode()&os.ModeSymlink)
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NotContains(t, string(text), "\n1 ")
	require.Contains(t, string(text), "\n2 ")
}

func TestAPipeIsNoKeyFile(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err := rls.OpenKeyFile(pipe, nil)
	require.ErrorContains(t, err, "no regular file", "and nobody waits for who writes into it")
}
