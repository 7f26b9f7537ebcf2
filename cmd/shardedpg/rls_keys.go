package main

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/rls"
	"github.com/sharded-pg/sharded-pg/rls/policy"
)

// keyed says which databases a command on keys is about, and as which shard.
type keyed struct {
	databases
	declared
	As identifier `placeholder:"SHARD" help:"With --dsn: the name of the shard, from which its keys are derived."`
}

// Validate is called by kong.
func (k *keyed) Validate() error {
	if (k.DSN != "") != (k.As != "") {
		return usage("--dsn and --as go together: keys are derived from the shard's name")
	}
	return nil
}

func (k *keyed) shardOf(t target) string {
	if t.shard == "" {
		return string(k.As)
	}
	return t.shard
}

// keysAt is what a database has, in JSON.
type keysAt struct {
	Shard    string `json:"shard"`
	Database string `json:"database"`
	*policy.KeyState
	Installed []string `json:"installed,omitempty"` // by this command
	Retired   string   `json:"retired,omitempty"`
	Missing   []string `json:"missing,omitempty"` // keys of the file
	Foreign   []string `json:"foreign,omitempty"` // keys that are not those of the file

	target target
}

// each runs work on the databases, one after the other, and returns what they have then. It ends at the first that fails.
func (k *keyed) each(a *app, keys rls.Keys, work func(conn *pgx.Conn, c policy.Config, own []*rls.ShardKey, at *keysAt) error) ([]keysAt, error) {
	targets, err := k.targets(a, true)
	if err != nil {
		return nil, err
	}
	done := []keysAt{}
	for _, t := range targets {
		at := keysAt{Shard: k.shardOf(t), Database: t.database, target: t}
		var own []*rls.ShardKey
		for _, key := range keys {
			own = append(own, key.For(at.Shard))
		}
		if err := t.on(a.ctx, func(conn *pgx.Conn) error {
			c, err := k.config(a.ctx, conn, t)
			if err != nil {
				return err
			}
			if err := work(conn, c, own, &at); err != nil {
				return err
			}
			at.KeyState, err = policy.ReadKeys(a.ctx, conn, c)
			return err
		}); err != nil {
			return done, err
		}
		at.compare(own)
		done = append(done, at)
	}
	return done, nil
}

func (at *keysAt) compare(own []*rls.ShardKey) {
	for _, key := range own {
		if !slices.ContainsFunc(at.Keys, func(k policy.InstalledKey) bool { return k.Name == key.Name() }) {
			at.Missing = append(at.Missing, key.ID)
		}
	}
	for _, k := range at.Keys {
		if !slices.ContainsFunc(own, func(key *rls.ShardKey) bool { return k.Name == key.Name() }) {
			at.Foreign = append(at.Foreign, k.ID)
		}
	}
}

func (at *keysAt) ids() string {
	var ids []string
	for _, k := range at.Keys {
		ids = append(ids, k.ID)
	}
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, ", ")
}

type keysInstall struct {
	keyed
	keyFile
}

func (c *keysInstall) Run(a *app) error {
	_, keys, err := c.read(a)
	if err != nil {
		return err
	}
	done, err := c.each(a, keys, func(conn *pgx.Conn, config policy.Config, own []*rls.ShardKey, at *keysAt) (err error) {
		at.Installed, err = policy.InstallKeys(a.ctx, conn, config, own, nil)
		return err
	})
	return a.keys(done, err, func(at keysAt) {
		if len(at.Installed) == 0 {
			a.say("%s: nothing to install; it has %s", at.target, at.ids())
			return
		}
		a.say("%s: installed %s; it has %s", at.target, strings.Join(at.Installed, ", "), at.ids())
	})
}

// keys prints databases, those before one that failed, too.
func (a *app) keys(done []keysAt, failed error, human func(at keysAt)) error {
	if failed == nil || len(done) > 0 {
		if err := a.show(map[string]any{"databases": done}, func() {
			for _, at := range done {
				human(at)
			}
		}); err != nil {
			return err
		}
	}
	return failed
}

type keysList struct {
	keyed
	keyFile
}

func (c *keysList) Run(a *app) error {
	_, keys, err := c.read(a)
	if err != nil {
		return err
	}
	done, err := c.each(a, keys, func(*pgx.Conn, policy.Config, []*rls.ShardKey, *keysAt) error { return nil })
	if err != nil {
		return err
	}
	return a.show(map[string]any{"databases": done}, func() {
		var rows [][]string
		for _, at := range done {
			policies := "signed"
			if at.Plain > 0 {
				policies = "plain"
			}
			if at.Signed+at.Plain == 0 {
				policies = ""
			}
			for _, k := range at.Keys {
				state := "ok"
				if slices.Contains(at.Foreign, k.ID) {
					state = "not in the file"
				}
				rows = append(rows, []string{at.Shard, at.Database, policies, k.ID, when(k.At), state})
			}
			for _, id := range at.Missing {
				rows = append(rows, []string{at.Shard, at.Database, policies, id, "", "missing"})
			}
		}
		a.table([]string{"SHARD", "DATABASE", "POLICIES", "KEY", "INSTALLED", "STATE"}, rows)
	})
}

type keysRetire struct {
	ID string `arg:"" help:"The key."`
	keyed
	keyFile
	DryRun bool `help:"Show what would change, and change nothing."`
	Yes    bool `help:"Make the change."`
}

func (c *keysRetire) Run(a *app) error {
	if c.DryRun == c.Yes {
		return usage("say --dry-run to see where the key would be taken away, or --yes to do it")
	}
	path, keys, err := c.read(a)
	if err != nil {
		return err
	}
	if slices.Contains(keys.IDs(), c.ID) {
		return usage("key %q is still in %s, and programs sign with it: run shardedpg rls keys forget %s, give the file to all programs, and wait until "+
			"their transactions of before have ended", c.ID, path, c.ID)
	}
	// First all are looked at: each shard needs another key that programs have.
	found, err := c.each(a, keys, func(*pgx.Conn, policy.Config, []*rls.ShardKey, *keysAt) error { return nil })
	if err != nil {
		return err
	}
	for _, at := range found {
		if len(at.Missing) == len(keys) && at.Signed > 0 {
			return usage("%s has no key of %s besides: run shardedpg rls keys install first", at.target, path)
		}
	}
	if c.DryRun {
		return a.keys(found, nil, func(at keysAt) {
			what := "does not have it"
			if slices.ContainsFunc(at.Keys, func(k policy.InstalledKey) bool { return k.ID == c.ID }) {
				what = "would lose it"
			}
			a.say("%s: %s; dry run, nothing was changed", at.target, what)
		})
	}
	done, err := c.each(a, keys, func(conn *pgx.Conn, config policy.Config, _ []*rls.ShardKey, at *keysAt) error {
		removed, err := policy.RemoveKey(a.ctx, conn, config, c.ID, nil)
		if removed {
			at.Retired = c.ID
		}
		return err
	})
	return a.keys(done, err, func(at keysAt) {
		if at.Retired == "" {
			a.say("%s: does not have it; it has %s", at.target, at.ids())
			return
		}
		a.say("%s: key %q is retired; it has %s", at.target, c.ID, at.ids())
	})
}
