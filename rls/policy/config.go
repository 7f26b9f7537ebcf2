package policy

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/sharded-pg/sharded-pg/rls"
)

// Config says what the tables of a database are and who works with them. Only App is required; the other fields take the
// stated default when empty.
//
// Patterns are compared with schema.table; * stands for any characters, as in "app.log_*".
type Config struct {
	App          string   `json:"app"`                     // the role of tenants' statements, the one in the shard's DSN
	Owner        string   `json:"owner"`                   // default "shardedpg_owner"
	Maintenance  string   `json:"maintenance"`             // default "shardedpg_maintenance"
	TenantColumn string   `json:"tenant_column"`           // default "tenant_id"
	GUC          string   `json:"guc"`                     // the tenant setting; default [rls.DefaultGUC]
	Identity     Identity `json:"identity,omitempty"`      // what policies take the tenant from; default [Plain]
	KeyOwner     string   `json:"key_owner,omitempty"`     // owns the keys of signed tenants; default "shardedpg_keys"
	Tables       []string `json:"tables,omitempty"`        // patterns: no other relation is looked at; default: all are
	Global       []string `json:"global,omitempty"`        // patterns of tables without a tenant, which all tenants may read
	Private      []string `json:"private,omitempty"`       // patterns of tables and views that tenants may not touch
	SkipSchemas  []string `json:"skip_schemas,omitempty"`  // patterns; default "sharded_pg" and "tenant_*": the registry's, and schema tenants'
	KeepTemp     bool     `json:"keep_temp,omitempty"`     // leave the right to make temporary tables alone
	DropPolicies bool     `json:"drop_policies,omitempty"` // drop policies that are not the generator's
	Indexes      bool     `json:"indexes,omitempty"`       // make missing indexes of the tenant column; they block writes while they are built
	Lockdown     bool     `json:"lockdown,omitempty"`      // take built-in functions from PUBLIC that reach across tenants; needs a superuser
}

const (
	// RecordSchema is the schema of the records of Apply. Nobody but its owner may look into it.
	RecordSchema = "shardedpg"

	tenantPolicy = "shardedpg_tenant"
	guardPolicy  = "shardedpg_guard"

	maxIdentifier = 63
)

func (c Config) withDefaults() Config {
	set := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	set(&c.Owner, "shardedpg_owner")
	set(&c.Maintenance, "shardedpg_maintenance")
	set(&c.KeyOwner, "shardedpg_keys")
	set((*string)(&c.Identity), string(Plain))
	set(&c.TenantColumn, "tenant_id")
	set(&c.GUC, rls.DefaultGUC)
	if len(c.SkipSchemas) == 0 {
		c.SkipSchemas = []string{"sharded_pg", "tenant_*"}
	}
	return c
}

// check returns all that is wrong with c.
func (c Config) check() error {
	errs := []error{rls.CheckGUC(c.GUC)}
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.App == "" {
		add("no app role: name the role that tenants' statements run as")
	}
	if c.Identity != Plain && c.Identity != Signed {
		add("%q is no identity: use plain or signed", c.Identity)
	}
	names := map[string]string{}
	roles := map[string]string{"app role": c.App, "owner role": c.Owner, "maintenance role": c.Maintenance, "role of the keys": c.KeyOwner}
	for what, name := range roles {
		if other, taken := names[name]; taken && name != "" {
			add("%q is %s and %s: each needs a role of its own, or none of them is a barrier to another", name, min(what, other), max(what, other))
		}
		names[name] = what
	}
	for what, name := range map[string]string{
		"app role": c.App, "owner role": c.Owner, "maintenance role": c.Maintenance, "tenant column": c.TenantColumn,
		"role of the keys": c.KeyOwner,
	} {
		if len(name) > maxIdentifier || strings.ContainsRune(name, 0) {
			add("the %s %q is no name: PostgreSQL takes up to %d bytes", what, name, maxIdentifier)
		}
	}
	for what, patterns := range map[string][]string{
		"tables": c.Tables, "global": c.Global, "private": c.Private, "skip schemas": c.SkipSchemas,
	} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				add("pattern %q of %s is malformed: write names, with * for any characters", p, what)
			} else if what != "skip schemas" && !strings.Contains(p, ".") && p != "*" {
				add("pattern %q of %s names no schema: write schema.table", p, what)
			}
		}
	}
	return errors.Join(errs...)
}

// matches reports whether one of the patterns is that of the name.
func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}
