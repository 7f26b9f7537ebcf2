// Package fleetfile reads and writes a fleet as YAML: shards, plans and tenants that somebody keeps under version control.
//
//	shards:
//	  eu1:
//	    dsn: host=eu1 user=app dbname=app password=${EU1_PASSWORD}
//	    admin_dsn: host=eu1 user=admin dbname=app password=${EU1_ADMIN_PASSWORD}
//	    region: eu
//	plans:
//	  trial: {statement_timeout: 2s, work_mem: 4MB, max_conns: 1}
//	tenants:
//	  acme: {shard: eu1, plan: growth}
//	  beta: {shard: eu1, model: schema}
//	  gamma: {shard: eu1, database: gamma} # on its own
//
// Give the fleet to registry.NewStatic, for a registry that is this file, or to Apply of a registry in PostgreSQL. It is a
// package of its own so that programs which only query do not link a YAML parser.
package fleetfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// file is the form of the text. Names are keys, so that none can be listed twice.
type file struct {
	Shards  map[string]shard `yaml:"shards,omitempty"`
	Plans   map[string]plan  `yaml:"plans,omitempty"`
	Tenants tenants          `yaml:"tenants,omitempty"`
}

type shard struct {
	DSN        string            `yaml:"dsn"`
	AdminDSN   string            `yaml:"admin_dsn,omitempty"`
	Region     string            `yaml:"region,omitempty"`
	Labels     map[string]string `yaml:"labels,omitempty"`
	MaxTenants count             `yaml:"max_tenants,omitempty"`
	MaxBytes   int64             `yaml:"max_bytes,omitempty"`
	State      string            `yaml:"state,omitempty"`
}

type plan struct {
	StatementTimeout string  `yaml:"statement_timeout"`
	WorkMem          string  `yaml:"work_mem"`
	MaxConns         int     `yaml:"max_conns"`
	Weight           int     `yaml:"weight,omitempty"` // default 1
	Rate             float64 `yaml:"rate,omitempty"`
	Burst            int     `yaml:"burst,omitempty"` // default: those of two seconds of the rate
}

type tenant struct {
	Shard    string            `yaml:"shard"`
	Database string            `yaml:"database,omitempty"`
	Model    string            `yaml:"model,omitempty"`
	Plan     string            `yaml:"plan,omitempty"`
	State    string            `yaml:"state,omitempty"`
	Schema   string            `yaml:"schema,omitempty"`
	Role     string            `yaml:"role,omitempty"`
	Slug     string            `yaml:"slug,omitempty"`
	Labels   map[string]string `yaml:"labels,omitempty"`
}

// count is a number of tenants, or "unlimited".
type count int

// MarshalYAML writes registry.UnlimitedTenants as a word.
func (c count) MarshalYAML() (any, error) {
	if c == registry.UnlimitedTenants {
		return "unlimited", nil
	}
	return int(c), nil
}

// UnmarshalYAML reads what MarshalYAML writes.
func (c *count) UnmarshalYAML(node *yaml.Node) error {
	if node.Value == "unlimited" {
		*c = registry.UnlimitedTenants
		return nil
	}
	n, err := strconv.Atoi(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: max_tenants is %q: use a number, or unlimited", node.Line, node.Value)
	}
	*c = count(n)
	return nil
}

// Load reads a file; see [Read].
func Load(path string) (registry.Fleet, error) {
	f, err := os.Open(path) //nolint:gosec // the caller's file
	if err != nil {
		return registry.Fleet{}, fmt.Errorf("fleet file: %w", err)
	}
	defer f.Close()
	fleet, err := Read(f)
	if err != nil {
		return registry.Fleet{}, fmt.Errorf("fleet file %s: %w", path, err)
	}
	return fleet, nil
}

// Read reads a fleet. A field that it does not know is an error, and so is anything behind the first document: a typing
// mistake must not become a default. Names and limits are checked by whoever takes the fleet.
func Read(r io.Reader) (registry.Fleet, error) {
	decoder := yaml.NewDecoder(r)
	decoder.KnownFields(true)
	var f file
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return registry.Fleet{}, unquoted(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return registry.Fleet{}, errors.New("there is a second document: write one")
	}
	return f.fleet()
}

// quoted finds the values that the parser repeats in its errors: one of them may be a DSN.
var quoted = regexp.MustCompile("`[^`]*`?")

func unquoted(err error) error { return errors.New(quoted.ReplaceAllString(err.Error(), "(value)")) }

func (f file) fleet() (fleet registry.Fleet, err error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.Shards)) {
		s := f.Shards[name]
		fleet.Shards = append(fleet.Shards, registry.Shard{
			Name: name, DSN: s.DSN, AdminDSN: s.AdminDSN, Region: s.Region, Labels: s.Labels, MaxTenants: int(s.MaxTenants),
			MaxBytes: s.MaxBytes, State: registry.ShardState(s.State),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(f.Plans)) {
		p := f.Plans[name]
		timeout, err := registry.ParseTimeout(p.StatementTimeout)
		if err != nil {
			errs = append(errs, fmt.Errorf("plan %q: %w", name, err))
		}
		memory, err := parseKB(p.WorkMem)
		if err != nil {
			errs = append(errs, fmt.Errorf("plan %q: %w", name, err))
		}
		fleet.Plans = append(fleet.Plans, registry.Plan{
			Name: name, StatementTimeout: timeout, WorkMemKB: memory, MaxConns: p.MaxConns, Weight: max(p.Weight, 1),
			Rate: p.Rate, Burst: p.Burst,
		})
	}
	for _, id := range slices.Sorted(maps.Keys(f.Tenants)) {
		t := f.Tenants[id]
		fleet.Tenants = append(fleet.Tenants, registry.Tenant{
			ID: id, Shard: t.Shard, Database: t.Database, Model: resolver.Model(t.Model), Plan: t.Plan, State: resolver.State(t.State),
			Schema: t.Schema, Role: t.Role, Slug: t.Slug, Labels: t.Labels,
		})
	}
	return fleet, errors.Join(errs...)
}

// Write writes a fleet; Read gives it back. Lists are in the order of names, so that writing the same fleet again is the
// same text.
func Write(w io.Writer, fleet registry.Fleet) error {
	f := file{Shards: map[string]shard{}, Plans: map[string]plan{}, Tenants: tenants{}}
	for _, s := range fleet.Shards {
		f.Shards[s.Name] = shard{s.DSN, s.AdminDSN, s.Region, s.Labels, count(s.MaxTenants), s.MaxBytes, string(s.State)}
	}
	for _, p := range fleet.Plans {
		f.Plans[p.Name] = plan{registry.FormatTimeout(p.StatementTimeout), formatKB(p.WorkMemKB), p.MaxConns, p.Weight, p.Rate, p.Burst}
	}
	for _, t := range fleet.Tenants {
		f.Tenants[t.ID] = tenant{t.Shard, t.Database, string(t.Model), t.Plan, string(t.State), t.Schema, t.Role, t.Slug, t.Labels}
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(f), encoder.Close()); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

// parseKB reads an amount of memory as PostgreSQL writes it: 4MB, 512kB, 1GB.
func parseKB(text string) (int, error) {
	for _, unit := range []struct {
		suffix string
		kb     int
	}{{"kB", 1}, {"MB", 1 << 10}, {"GB", 1 << 20}} {
		digits, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(digits)); err == nil && n >= 0 && n <= 1<<31/unit.kb {
			return n * unit.kb, nil
		}
	}
	return 0, fmt.Errorf("work_mem is %q: use an amount such as 4MB or 512kB", text)
}

func formatKB(kb int) string {
	switch {
	case kb%(1<<20) == 0:
		return strconv.Itoa(kb>>20) + "GB"
	case kb%(1<<10) == 0:
		return strconv.Itoa(kb>>10) + "MB"
	}
	return strconv.Itoa(kb) + "kB"
}
