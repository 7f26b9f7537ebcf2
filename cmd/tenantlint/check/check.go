// Package check is the analyzer behind tenantlint. It follows values inside one package: where a database handle was opened,
// and where a context began.
package check

import (
	"go/token"
	"go/types"
	"path"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/buildssa"
	"golang.org/x/tools/go/ssa"
)

// driver is the import path of the package whose tenants this is about.
const driver = "github.com/sharded-pg/sharded-pg"

// Config is what the flags say. The zero value has the defaults.
type Config struct {
	// Unknown takes each handle whose origin is not known for a tenant's. Without it that is done with those that callers pass
	// to a package that imports the driver.
	Unknown bool
	// Packages are import paths where Unknown holds; one that ends in /... stands for all below it.
	Packages []string
	// Allow are import paths that may use SwitchTenant and ShardDB.
	Allow []string
	// Tests looks at _test.go files, too.
	Tests bool
}

// New returns an analyzer with flags that fill cfg.
func New(cfg *Config) *analysis.Analyzer {
	a := &analysis.Analyzer{
		Name:     "tenantlint",
		Doc:      "find statements that lose their tenant, and uses of SwitchTenant and ShardDB that nobody has allowed",
		URL:      "https://" + driver + "/tree/main/cmd/tenantlint",
		Requires: []*analysis.Analyzer{buildssa.Analyzer},
		Run:      func(pass *analysis.Pass) (any, error) { return nil, run(pass, cfg) },
	}
	a.Flags.BoolVar(&cfg.Unknown, "unknown", cfg.Unknown, "take each *sql.DB whose origin is not known for a tenant's")
	a.Flags.Var((*list)(&cfg.Packages), "packages", "`import paths`, separated by commas, where -unknown holds; a/... means all below a")
	a.Flags.Var((*list)(&cfg.Allow), "allow", "`import paths` that may use SwitchTenant and ShardDB")
	a.Flags.BoolVar(&cfg.Tests, "with-tests", cfg.Tests, "look at _test.go files, too")
	return a
}

// list is a flag of several values.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
	return nil
}

type checker struct {
	pass    *analysis.Pass
	cfg     *Config
	flow    *flow
	allowed *allowances
	guess   bool // handles that callers pass are a tenant's
	all     bool // and so are those of which nothing is known
}

func run(pass *analysis.Pass, cfg *Config) error {
	code := pass.ResultOf[buildssa.Analyzer].(*buildssa.SSA)
	functions := append([]*ssa.Function{code.Pkg.Func("init")}, code.SrcFuncs...)
	c := &checker{pass: pass, cfg: cfg, flow: newFlow(functions), allowed: findAllowances(pass)}
	c.all = cfg.Unknown || matches(cfg.Packages, pass.Pkg.Path())
	c.guess = c.all || imports(pass.Pkg, driver)
	for _, fn := range functions {
		for _, block := range fn.Blocks {
			for _, instr := range block.Instrs {
				if call, ok := instr.(ssa.CallInstruction); ok {
					c.call(fn, call)
				}
			}
		}
	}
	return nil
}

func (c *checker) call(fn *ssa.Function, call ssa.CallInstruction) {
	common := call.Common()
	name := calleeName(common)
	switch {
	case name == driver+".SwitchTenant", name == "(*"+driver+".Connector).ShardDB":
		c.privileged(call.Pos(), name[strings.LastIndex(name, ".")+1:])
		return
	case gormFinish[name]:
		c.gorm(fn, call)
		return
	}
	m, ok := methods[name]
	if !ok || !c.tenants(common.Args[0]) {
		return
	}
	short := name[strings.LastIndex(name, ".")+1:]
	switch {
	case m.instead != "" && m.inherits:
		c.report(call.Pos(), "%s has no context: it belongs to the transaction's tenant, and nothing ends it; use %s", short, m.instead)
	case m.instead != "" && short == "Ping":
		c.report(call.Pos(), "Ping has no context, so it asks the registry and no tenant's shard; use PingContext")
	case m.instead != "":
		c.report(call.Pos(), "%s has no context, so no tenant; use %s", short, m.instead)
	case !m.inherits && c.flow.context(common.Args[1]) == yes:
		c.lost(fn, call.Pos(), short)
	}
}

// tenants reports whether a handle is one of a tenant's.
func (c *checker) tenants(handle ssa.Value) bool {
	switch c.flow.handle(handle) {
	case yes:
		return true
	case unknown:
		return c.guess
	case elsewhere:
		return c.all
	}
	return false
}

// lost reports a context in which no tenant can be, with the nearest one to use.
func (c *checker) lost(fn *ssa.Function, pos token.Pos, what string) {
	started := false
	for f := fn; f != nil; f = f.Parent() {
		if near := contextOf(f); near != "" {
			if started {
				c.report(pos, "this goroutine drops the tenant of %s, which %s needs; use context.WithoutCancel(%s) to keep it", near, what, near)
			} else {
				c.report(pos, "the context of %s has no tenant; pass %s on", what, near)
			}
			return
		}
		started = started || c.flow.started(f)
	}
	c.report(pos, "the context of %s has no tenant: it comes from context.Background or TODO; use shardedpg.WithTenant", what)
}

// contextOf names a context that f was given.
func contextOf(f *ssa.Function) string {
	for _, p := range f.Params {
		switch name := p.Name(); {
		case name == "_" || name == "":
		case types.TypeString(p.Type(), nil) == "context.Context":
			return name
		case types.TypeString(p.Type(), nil) == "*net/http.Request":
			return name + ".Context()"
		}
	}
	return ""
}

func (c *checker) privileged(pos token.Pos, what string) {
	if c.pass.Pkg.Path() == driver || matches(c.cfg.Allow, c.pass.Pkg.Path()) {
		return
	}
	does := map[string]string{"SwitchTenant": "replaces the tenant of a context", "ShardDB": "works past every tenant"}[what]
	c.report(pos, "%s %s; allow this package with -allow=%s, or give the reason in a comment //tenantlint:allow <reason>", what, does,
		c.pass.Pkg.Path())
}

func (c *checker) report(pos token.Pos, format string, args ...any) {
	at := c.pass.Fset.Position(pos)
	if !c.cfg.Tests && strings.HasSuffix(at.Filename, "_test.go") || c.allowed.at(at) {
		return
	}
	c.pass.Reportf(pos, format, args...)
}

func matches(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if below, all := strings.CutSuffix(p, "/..."); all && (pkg == below || strings.HasPrefix(pkg, below+"/")) {
			return true
		}
		if ok, _ := path.Match(p, pkg); ok {
			return true
		}
	}
	return false
}

func imports(pkg *types.Package, path string) bool {
	for _, p := range pkg.Imports() {
		if p.Path() == path {
			return true
		}
	}
	return pkg.Path() == path
}
