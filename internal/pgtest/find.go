package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ErrNotInstalled reports that a server program is not on this machine; the text around it says what to install.
var ErrNotInstalled = errors.New("not installed")

const (
	binEnv     = "SHARDEDPG_PGBIN"
	bouncerEnv = "SHARDEDPG_PGBOUNCER"
)

// serverFolders are the places where packages put a server, besides PATH: Debian and PGDG, Homebrew, Postgres.app, the
// EDB installer, Alpine, a build from source.
var serverFolders = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/Library/PostgreSQL/*/bin",
	"/usr/libexec/postgresql*",
	"/usr/local/pgsql/bin",
}

// binaries is one installation of the server.
type binaries struct {
	dir     string
	version string // what postgres --version prints
	major   int
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// findServer returns the newest installation, or the one of the wanted major version.
func findServer(ctx context.Context, major int) (binaries, error) {
	all, err := inspectAll(ctx, candidateFolders(ctx))
	if err != nil {
		return binaries{}, err
	}
	for _, b := range all {
		if major == 0 || b.major == major {
			return b, nil
		}
	}
	name := "PostgreSQL"
	if major != 0 {
		name += " " + strconv.Itoa(major)
	}
	where := ""
	if dir := os.Getenv(binEnv); dir != "" {
		where = fmt.Sprintf(" in %s=%q", binEnv, dir)
	}
	return binaries{}, fmt.Errorf("pgtest: %s server: %w%s; run script/setup, or install it (apt-get install postgresql | dnf install "+
		"postgresql-server | brew install postgresql), or set %s to the folder with initdb and postgres", name, ErrNotInstalled, where, binEnv)
}

// Majors returns the major versions that [Start] can start here, smallest first. With none, the error matches
// ErrNotInstalled.
func Majors(ctx context.Context) ([]int, error) {
	if _, err := findServer(ctx, 0); err != nil {
		return nil, err
	}
	all, err := inspectAll(ctx, candidateFolders(ctx))
	if err != nil {
		return nil, err
	}
	var majors []int
	for _, b := range all {
		majors = append(majors, b.major)
	}
	slices.Sort(majors)
	return slices.Compact(majors), nil
}

// inspectAll returns the installations in those of the folders that have one.
func inspectAll(ctx context.Context, dirs []string) ([]binaries, error) {
	var all []binaries
	found := map[string]bool{}
	for _, dir := range dirs {
		if dir == "" || found[dir] || !executable(filepath.Join(dir, "postgres")) || !executable(filepath.Join(dir, "initdb")) {
			continue
		}
		found[dir] = true
		b, err := inspect(ctx, dir)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// candidateFolders lists folders in the order of preference. A set SHARDEDPG_PGBIN (a path list) is the only source: who
// names a version must never be given another one.
func candidateFolders(ctx context.Context) []string {
	if list := os.Getenv(binEnv); list != "" {
		return filepath.SplitList(list)
	}
	var dirs []string
	for _, pattern := range serverFolders {
		matches, _ := filepath.Glob(pattern) // the only error is a malformed pattern
		dirs = append(dirs, matches...)
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return majorInPath(b) - majorInPath(a) })
	if path, err := exec.LookPath("postgres"); err == nil {
		// initdb looks for postgres beside itself, so a link in PATH has to be followed.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	if path, err := exec.LookPath("pg_config"); err == nil {
		if out, err := exec.CommandContext(ctx, path, "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	return append(dirs, fetched("servers", "bin")...)
}

// fetched lists what script/setup-matrix has put into a folder of ours, newest first. It comes last: which server a test
// gets that names no version must not depend on what was fetched.
func fetched(kind, path string) []string {
	base, err := baseFolder()
	if err != nil {
		return nil // who starts a server hears of it
	}
	matches, _ := filepath.Glob(filepath.Join(base, kind, "*", path)) // the only error is a malformed pattern
	slices.Reverse(matches)
	return matches
}

var digits = regexp.MustCompile(`\d+`)

func majorInPath(path string) int {
	n, _ := strconv.Atoi(digits.FindString(path)) // no digits: 0, the end of the list
	return n
}

var inspected sync.Map // folder → binaries

func inspect(ctx context.Context, dir string) (binaries, error) {
	if b, ok := inspected.Load(dir); ok {
		return b.(binaries), nil
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("pgtest: %s/postgres --version: %w", dir, err)
	}
	b := binaries{dir: dir, version: strings.TrimSpace(string(out))}
	b.major = majorInPath(b.version)
	inspected.Store(dir, b)
	return b, nil
}

// bouncerProgram is one installation of PgBouncer.
type bouncerProgram struct {
	path, version string
	prepares      bool // it can follow the statements that clients prepare by the protocol: since 1.21
}

// findBouncer returns a pgbouncer, the first found or the first that can follow prepared statements.
func findBouncer(ctx context.Context, prepares bool) (bouncerProgram, error) {
	for _, path := range candidateBouncers() {
		if b, err := inspectBouncer(ctx, path); err != nil || b.prepares || !prepares {
			return b, err
		}
	}
	where := ""
	if path := os.Getenv(bouncerEnv); path != "" {
		where = fmt.Sprintf(" as %s=%q", bouncerEnv, path)
	}
	if prepares {
		return bouncerProgram{}, fmt.Errorf("pgtest: PgBouncer 1.21 or later: %w%s; run script/setup-matrix pgbouncer, or set %s to the program",
			ErrNotInstalled, where, bouncerEnv)
	}
	return bouncerProgram{}, fmt.Errorf("pgtest: PgBouncer: %w; run script/setup, or install it (apt-get install pgbouncer | dnf install pgbouncer | "+
		"brew install pgbouncer), or set %s to the program", ErrNotInstalled, bouncerEnv)
}

// candidateBouncers lists programs in the order of preference. Debian installs in /usr/sbin, which is often not in a user's
// PATH. A set SHARDEDPG_PGBOUNCER is the only source.
func candidateBouncers() []string {
	if path := os.Getenv(bouncerEnv); path != "" {
		return []string{path}
	}
	var found []string
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		found = append(found, path)
	}
	for _, path := range append([]string{
		"/usr/sbin/pgbouncer", "/opt/homebrew/opt/pgbouncer/bin/pgbouncer", "/usr/local/opt/pgbouncer/bin/pgbouncer",
	}, fetched("bouncers", "pgbouncer")...) {
		if executable(path) {
			found = append(found, path)
		}
	}
	return found
}

var bouncerVersion = regexp.MustCompile(`PgBouncer ((\d+)\.(\d+)\S*)`)

func inspectBouncer(ctx context.Context, path string) (bouncerProgram, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return bouncerProgram{}, fmt.Errorf("pgtest: %s --version: %w", path, err)
	}
	m := bouncerVersion.FindSubmatch(out)
	if m == nil {
		return bouncerProgram{}, fmt.Errorf("pgtest: %s --version names no version of PgBouncer", path)
	}
	major, _ := strconv.Atoi(string(m[2])) // digits, both
	minor, _ := strconv.Atoi(string(m[3]))
	return bouncerProgram{path, string(m[1]), major > 1 || major == 1 && minor >= 21}, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}
