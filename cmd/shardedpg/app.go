package main

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/term"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
)

// app is what a command runs with.
type app struct {
	ctx     context.Context // of the process: it ends with an interrupt
	dsn     string          // secret
	json    bool
	stdin   *os.File
	out     io.Writer
	notes   io.Writer // what a program that reads out must not see
	screens bool      // out is a terminal
	color   bool      // and may be coloured
	bars    bool      // notes is a terminal
	columns int       // of that terminal
	prompt  bool      // somebody can answer
}

func newApp(ctx context.Context, c *commands) *app {
	terminal := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" }
	columns, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil || columns < 2 {
		columns = 80
	}
	return &app{
		ctx:     ctx,
		dsn:     c.Registry,
		json:    c.Output == "json",
		stdin:   os.Stdin,
		out:     &results{to: os.Stdout},
		notes:   os.Stderr,
		screens: terminal(os.Stdout),
		color:   terminal(os.Stdout) && os.Getenv("NO_COLOR") == "",
		bars:    terminal(os.Stderr),
		columns: columns,
		prompt:  terminal(os.Stdin) && terminal(os.Stderr),
	}
}

// with runs do on the registry.
func (a *app) with(do func(ctx context.Context, reg *registry.Postgres) error) error {
	return a.withConfig(func(ctx context.Context, reg *registry.Postgres, _ shardedpg.Config) error { return do(ctx, reg) })
}

// withConfig is with for commands that need the driver's options of the DSN, too.
func (a *app) withConfig(
	do func(ctx context.Context, reg *registry.Postgres, cfg shardedpg.Config) error,
) (err error) {
	if a.dsn == "" {
		return usage("which registry? Set SHARDEDPG_REGISTRY, or --registry, to the registry's PostgreSQL URL or keyword/value string")
	}
	// The same string as programs have, with the same options in it.
	cfg, err := shardedpg.ParseDSN(a.dsn)
	if err != nil {
		return usage("the registry's DSN: %w", err)
	}
	reg, err := registry.Open(cfg.DSN, &registry.Options{Schema: cfg.RegistrySchema, MaxConns: maxJobs})
	if err != nil {
		return usage("the registry's DSN: %w", err)
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	return do(a.ctx, reg, cfg)
}
