package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/fleetfile"
)

type registryInit struct{}

func (registryInit) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		if err := reg.Init(ctx); err != nil {
			return err
		}
		return a.show(map[string]bool{"initialized": true}, func() { a.say("registry initialized") })
	})
}

// shownStatus is a shard of the status in JSON.
type shownStatus struct {
	Shard      string   `json:"shard"`
	State      string   `json:"state"`
	Tenants    int      `json:"tenants"`
	MaxTenants int      `json:"max_tenants"`
	Running    int      `json:"running_tenants"`
	MaxConns   int64    `json:"max_conns"`
	WorkMemKB  int64    `json:"work_mem_kb"`
	Warnings   []string `json:"warnings,omitempty"`
}

type registryStatus struct{}

func (registryStatus) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		shards, err := reg.ListShards(ctx)
		if err != nil {
			return err
		}
		plans, err := reg.ListPlans(ctx)
		if err != nil {
			return err
		}
		promises, err := reg.Overcommit(ctx, nil)
		if err != nil {
			return err
		}
		status := make([]shownStatus, 0, len(shards))
		tenants := 0
		for _, s := range shards {
			shown := shownStatus{
				Shard: s.Name, State: string(s.State), Tenants: s.Tenants, MaxTenants: s.MaxTenants, Warnings: s.Warnings(),
			}
			if i := slices.IndexFunc(promises, func(c registry.Commitment) bool { return c.Shard == s.Name }); i >= 0 {
				shown.Running, shown.MaxConns, shown.WorkMemKB = promises[i].Tenants, promises[i].MaxConns, promises[i].WorkMemKB
				shown.Warnings = append(shown.Warnings, promises[i].Warnings()...)
			}
			status = append(status, shown)
			tenants += s.Tenants
		}
		return a.show(map[string]any{"tenants": tenants, "plans": len(plans), "shards": status}, func() {
			a.say("registry: %s, %s, %s", count(len(shards), "shard"), count(tenants, "tenant"), count(len(plans), "plan"))
			if len(shards) == 0 {
				a.note("next: shardedpg shard add")
				return
			}
			var rows [][]string
			for _, s := range status {
				rows = append(rows, []string{
					s.Shard, s.State, strconv.Itoa(s.Tenants), showMost(s.MaxTenants), strconv.Itoa(s.Running),
					strconv.FormatInt(s.MaxConns, 10), roughSize(s.WorkMemKB << 10),
				})
			}
			a.table([]string{"SHARD", "STATE", "TENANTS", "MAX TENANTS", "RUNNING", "PROMISED CONNS", "PROMISED MEMORY"}, rows)
			for _, s := range status {
				a.warn(s.Shard, s.Warnings)
			}
		})
	})
}

type registryApply struct {
	File       string `short:"f" required:"" placeholder:"FILE" help:"The fleet in YAML; - for standard input."`
	DryRun     bool   `help:"Show what differs, and change nothing."`
	ChangeDSNs bool   `name:"change-dsns" help:"Let the file replace DSNs of shards that are there: their tenants are sent elsewhere."`
}

func (c *registryApply) Run(a *app) error {
	var fleet registry.Fleet
	err := a.read(c.File, func(r io.Reader) (err error) {
		fleet, err = fleetfile.Read(r)
		return err
	})
	if err != nil {
		return usage("%s: %w", c.File, err)
	}
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		found, err := reg.Apply(ctx, fleet, &registry.ApplyOptions{DryRun: c.DryRun, ChangeDSNs: c.ChangeDSNs})
		if err != nil {
			return err
		}
		if found == nil {
			found = []registry.Difference{}
		}
		return a.show(map[string]any{"dry_run": c.DryRun, "differences": found}, func() { a.differences(found, c.DryRun) })
	})
}

func (a *app) differences(found []registry.Difference, dryRun bool) {
	counts := make(map[string]int)
	for _, d := range found {
		counts[d.Action]++
		a.say("%s", d)
	}
	verb := "done"
	if dryRun {
		verb = "dry run, nothing was changed"
	}
	a.say("%s: %d to add, %d to change, %d extra and left alone", verb, counts["add"], counts["change"], counts["extra"])
}

type registryExport struct{}

func (registryExport) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		fleet, err := reg.Export(ctx)
		if err != nil {
			return err
		}
		if a.json {
			return usage("a fleet file is YAML: leave --output out")
		}
		return fleetfile.Write(a.out, fleet)
	})
}

type registryAuditLog struct {
	Kind    string `enum:"shard,plan,tenant," default:"" help:"Only changes of shard, plan or tenant."`
	Subject line   `help:"Only changes of the shard or plan of this name, or the tenant of this ID."`
	Actor   line   `help:"Only changes by this actor."`
	Before  int64  `placeholder:"N" help:"Only entries before this number: the next page."`
	Limit   int    `default:"50" help:"How many, at most 10000."`
}

// Validate is called by kong.
func (c *registryAuditLog) Validate() error {
	if c.Before < 0 {
		return fmt.Errorf("--before is %d: use the number of an entry", c.Before)
	}
	return checkLimit(c.Limit)
}

func (c *registryAuditLog) Run(a *app) error {
	return a.with(func(ctx context.Context, reg *registry.Postgres) error {
		entries, err := reg.Audit(ctx, registry.AuditFilter{
			Kind: c.Kind, Subject: string(c.Subject), Actor: string(c.Actor), Before: c.Before, Limit: c.Limit,
		})
		if err != nil {
			return err
		}
		if entries == nil {
			entries = []registry.AuditEntry{}
		}
		return a.show(map[string]any{"entries": entries}, func() {
			var rows [][]string
			for _, e := range entries {
				rows = append(rows, []string{
					strconv.FormatInt(e.ID, 10), when(e.At), e.Actor, e.Action, e.Subject, changed(e.Before, e.After), e.Note,
				})
			}
			a.table([]string{"NO", "AT", "ACTOR", "ACTION", "SUBJECT", "CHANGE", "REASON"}, rows)
			if len(entries) == c.Limit {
				a.note("more: --before %d", entries[len(entries)-1].ID)
			}
		})
	})
}

// changed writes the fields that differ on one line.
func changed(before, after map[string]any) string {
	var fields []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		was, is := plain(name, before[name]), plain(name, after[name])
		switch {
		case before == nil:
			fields = append(fields, name+"="+is)
		case before[name] == nil:
			fields = append(fields, name+": none -> "+is)
		case was != is:
			fields = append(fields, name+": "+was+" -> "+is)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, kept := after[name]; !kept && after != nil {
			fields = append(fields, name+": "+plain(name, before[name])+" -> none")
		}
	}
	return strings.Join(fields, " ")
}

// plain writes a value of the audit log: words as they are, the rest as JSON.
func plain(name string, value any) string {
	switch v := value.(type) {
	case string:
		return v
	case float64:
		if name == "max_tenants" {
			return showMost(int(v))
		}
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(encoded)
}

func checkLimit(n int) error {
	if n < 1 || n > 10000 {
		return fmt.Errorf("--limit is %d: use 1 to 10000", n)
	}
	return nil
}

// read gives do a file, or standard input for "-".
func (a *app) read(name string, do func(io.Reader) error) error {
	if name == "-" {
		return do(a.stdin)
	}
	f, err := os.Open(name) //nolint:gosec // the operator says which file
	if err != nil {
		return err
	}
	defer f.Close()
	return do(f)
}
