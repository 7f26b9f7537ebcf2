package conformance

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Harness says how to reach what is tested. The suite opens it many times and uses it from one scenario at a time, so
// nothing else may use these tenants, this login or these databases meanwhile.
//
// Fields that belong to one category may stay empty when Exclude names that category.
type Harness struct {
	// Open opens what is tested, as an application would. It fails the test when it cannot. The suite closes it. Required.
	Open func(t testing.TB, o Options) *sql.DB

	// A and B are active shared tenants in one database, C is one in another database or on another shard. Nobody may be
	// registered as NoSuchTenant. The plan of A, B and C must leave a statement ten seconds at least. Required.
	A, B, C string
	// Home and Away connect to the databases of A and B, and of C, as a superuser and past the driver and any pooler.
	// The suite makes its tables there. Required.
	Home, Away *sql.DB
	// Login is the role that the driver logs in as. It needs no rights; the suite grants what its tables need. Required.
	Login string
	// GUC is the setting that policies read. Default "app.current_tenant_id".
	GUC string

	// ExecMode is the default_query_exec_mode that Open is asked for outside the category "statements", and there the
	// only one when it is set. Default: pgx's own, and all five in "statements".
	ExecMode string
	// Pooler says what stands between the driver and the server.
	Pooler Pooler

	// Limited is a tenant in the database of A and B whose plan is tighter than theirs. For the category "limits".
	Limited Limited
	// First and Second are tenants of the model schema in the database of A and B; Missing is another one. The suite makes
	// the schemas and roles of the first two, and first no role, then no schema, of the last. For the categories "schemas"
	// and "errors".
	First, Second, Missing SchemaTenant
	// Disabled and ReadOnly are tenants in these states, in the database of A and B. For the category "errors".
	Disabled, ReadOnly string
	// Cut breaks every connection between a driver opened with Options.Breakable and the database of A and B, and while
	// down is true, new ones as well. For the category "network".
	Cut func(t testing.TB, down bool)

	// Exclude leaves out a category ("schemas") or a scenario ("isolation/open rows hold nobody up") and says why.
	Exclude map[string]string
}

// Options is what the suite asks of Open.
type Options struct {
	// Conns is the number of connections that the driver may open to a shard (Config.MaxConns); behind a pooler it is the
	// pooler's pool size as well, and everything opened with the same number shares one pooler. Never 0.
	Conns int
	// ExecMode is a value for default_query_exec_mode in the shard's DSN; empty: leave it out.
	ExecMode string
	// AcquireTimeout is how long a statement may wait for a connection (Config.AcquireTimeout); 0: leave the default.
	AcquireTimeout time.Duration
	// Rate is the statements per second of the plan of A, B and C; 0: none.
	Rate float64
	// Breakable says that Cut will be called: go through what can break connections.
	Breakable bool
	// RegistryDown asks for a driver whose registry cannot be reached and that knows no tenant yet.
	RegistryDown bool
}

// Limited is a tenant with a tight plan.
type Limited struct {
	Tenant           string
	StatementTimeout time.Duration // of its plan; between 100ms and 1s
	WorkMemKB        int           // of its plan; another one than that of A
}

// SchemaTenant is a tenant of the model schema.
type SchemaTenant struct {
	Tenant, Schema, Role string
}

// Pooler is what stands between the driver and the server.
type Pooler string

// The poolers that the suite knows to make a difference.
const (
	Direct             Pooler = ""            // none
	SessionPooling     Pooler = "session"     // a server connection for each connection of the driver
	TransactionPooling Pooler = "transaction" // a server connection for each transaction
)

// NoSuchTenant is a valid tenant ID that the registry must not know.
const NoSuchTenant = "no-such-tenant"

var execModes = []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

func (h *Harness) withDefaults() {
	if h.GUC == "" {
		h.GUC = "app.current_tenant_id"
	}
}

// modes are those of the category "statements".
func (h *Harness) modes() []string {
	if h.ExecMode != "" {
		return []string{h.ExecMode}
	}
	return execModes
}

func (h *Harness) validate() error {
	var errs []error
	need := func(ok bool, field, category string) {
		if ok {
			return
		}
		if _, excluded := h.Exclude[category]; excluded {
			return
		}
		hint := "it is required"
		if category != "" {
			hint = fmt.Sprintf("set it, or exclude %q and say why", category)
		}
		errs = append(errs, fmt.Errorf("conformance: Harness.%s is missing: %s", field, hint))
	}
	need(h.Open != nil, "Open", "")
	need(h.A != "" && h.B != "" && h.C != "", "A, B or C", "")
	need(h.Home != nil && h.Away != nil, "Home or Away", "")
	need(h.Login != "", "Login", "")
	need(h.Limited.Tenant != "" && h.Limited.StatementTimeout > 0 && h.Limited.WorkMemKB > 0, "Limited", "limits")
	complete := func(s SchemaTenant) bool { return s.Tenant != "" && s.Schema != "" && s.Role != "" }
	need(complete(h.First) && complete(h.Second), "First or Second", "schemas")
	need(complete(h.Missing), "Missing", "schemas")
	need(complete(h.Missing), "Missing", "errors")
	need(h.Disabled != "", "Disabled", "errors")
	need(h.ReadOnly != "", "ReadOnly", "errors")
	need(h.Cut != nil, "Cut", "network")
	if h.ExecMode != "" && !slices.Contains(execModes, h.ExecMode) {
		errs = append(errs, fmt.Errorf("conformance: Harness.ExecMode is %q; it can be one of %q", h.ExecMode, execModes))
	}
	if !slices.Contains([]Pooler{Direct, SessionPooling, TransactionPooling}, h.Pooler) {
		errs = append(errs, fmt.Errorf("conformance: Harness.Pooler is %q; it can be empty, session or transaction", h.Pooler))
	}
	errs = append(errs, h.validateExclude()...)
	return errors.Join(errs...)
}

func (h *Harness) validateExclude() (errs []error) {
	known := make(map[string]bool)
	for _, c := range categories(h) {
		known[c.name] = true
		for _, s := range c.scenarios {
			known[c.name+"/"+s.name] = true
		}
	}
	for name, reason := range h.Exclude {
		if !known[name] {
			errs = append(errs, fmt.Errorf("conformance: Harness.Exclude names %q, which does not exist", name))
		}
		if reason == "" {
			errs = append(errs, fmt.Errorf("conformance: Harness.Exclude gives no reason for %q", name))
		}
	}
	return errs
}

// shortRun reports go test -short; a program that is no test runs everything.
func shortRun() bool { return testing.Testing() && testing.Short() }
