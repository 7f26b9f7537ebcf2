package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// usageError is a command line that cannot be run as it is. Nothing was changed.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// errReported ends a command that failed and has printed why as its result.
var errReported = errors.New("reported")

// complain prints an error for an operator and returns the exit code.
func complain(err error) int {
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(os.Stderr, "shardedpg:", clean(speak(err.Error())))
		if next := hint(err); next != "" {
			fmt.Fprintln(os.Stderr, "next:", next)
		}
	}
	var wrong *usageError
	if errors.As(err, &wrong) {
		return exitUsage
	}
	return exitFailed
}

// invalid turns a value that the registry refuses by itself, whatever is stored, into a usage error.
func invalid(err error) error {
	if errors.Is(err, registry.ErrInvalid) || errors.Is(err, resolver.ErrInvalidTenant) {
		return &usageError{err}
	}
	return err
}

// spoken are names of the Go API in errors of package registry, and what an operator calls them.
var spoken = strings.NewReplacer(
	"allow it with ChangeDSNs, or use SetShardDSN", `allow it with --change-dsns, or use "shardedpg shard set-dsn"`,
	"SetShardDSN changes where it is, UpdateShard the rest",
	`"shardedpg shard set-dsn" changes where it is, "shardedpg registry apply" the rest`,
	"run Init (shardedpg registry init)", `run "shardedpg registry init"`,
	"create it, or set Options.Create", "create it, or name another one with --template",
	"grants included, or set Options.Create", "grants included, or name another one with --template-database",
	"set Options.TenantColumn to the column that they have", "name the column that they have with --tenant-column",
	"set Options.Create to your migrations", "provision such tenants with a Go program that runs your migrations",
	"or registry.UnlimitedTenants", "or unlimited",
	"set Expires to a time to come", "let it end later",
	"SetShardDSN", `"shardedpg shard set-dsn"`,
	"resolver.Unlimited", "unlimited",
	"PutPlan", `"shardedpg plan set"`,
	"BeginPurge", `"shardedpg tenant purge"`,
)

func speak(text string) string { return spoken.Replace(text) }

// hint is the command that helps, for errors that do not name one.
func hint(err error) string {
	switch {
	case errors.Is(err, registry.ErrShardNotFound):
		return "shardedpg shard list"
	case errors.Is(err, registry.ErrPlanNotFound):
		return "shardedpg plan list"
	case errors.Is(err, resolver.ErrTenantNotFound):
		return "shardedpg tenant list"
	case errors.Is(err, registry.ErrNoShardFits):
		return "shardedpg shard list shows how full they are; shardedpg shard add adds one, shardedpg shard open opens one"
	case errors.Is(err, registry.ErrShardInUse):
		return "shardedpg tenant list --shard NAME --removed any"
	}
	return ""
}
