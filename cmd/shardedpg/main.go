package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// commands is the command line. What each command is for is said here once, and shown by --help.
type commands struct {
	Registry string `env:"SHARDEDPG_REGISTRY" placeholder:"DSN" help:"The registry's PostgreSQL URL or keyword/value string, the one that programs open. Other users of this machine see command lines: prefer the environment."`
	Output   string `short:"o" enum:"table,json" default:"table" help:"table for people, json for programs."`

	Version kong.VersionFlag `help:"Print the version of this command."`

	RegistryCommands struct {
		Init     registryInit     `cmd:"" help:"Create the registry's tables, or bring them to this version."`
		Status   registryStatus   `cmd:"" help:"Show shards, how full they are and what plans promise there."`
		Apply    registryApply    `cmd:"" help:"Make the registry hold what a fleet file says, all of it or nothing."`
		Export   registryExport   `cmd:"" help:"Write the registry as a fleet file."`
		AuditLog registryAuditLog `cmd:"" help:"Show who changed what, newest first."`
	} `cmd:"" name:"registry" help:"The registry itself."`

	Shard struct {
		Add    shardAdd    `cmd:"" help:"Connect to a server and add it as a shard."`
		List   shardList   `cmd:"" help:"List shards and the number of their tenants."`
		Show   shardShow   `cmd:"" help:"Show one shard."`
		Full   shardFull   `cmd:"" help:"Close a shard for new tenants."`
		Open   shardOpen   `cmd:"" help:"Open a shard for new tenants."`
		Drain  shardDrain  `cmd:"" help:"Close a shard for new tenants because those on it shall move away. Moves nobody."`
		Remove shardRemove `cmd:"" help:"Take a shard without tenants out of the registry. Touches nothing on the server."`
		Health shardHealth `cmd:"" help:"Look at the servers of shards; fails if there is a problem."`
		SetDSN shardSetDSN `cmd:"" name:"set-dsn" help:"Connect to another server or login, and use it for a shard from now on."`
	} `cmd:"" help:"Servers that hold tenants."`

	Tenant struct {
		Add       tenantAdd       `cmd:"" help:"Add tenants, make what their model needs on their shards, and let them run statements."`
		List      tenantList      `cmd:"" help:"List tenants by ID, a page at a time."`
		Show      tenantShow      `cmd:"" help:"Show one tenant."`
		Enable    tenantEnable    `cmd:"" help:"Let a disabled, read-only or removed tenant run statements again."`
		Disable   tenantDisable   `cmd:"" help:"Refuse a tenant's statements."`
		ReadOnly  tenantReadOnly  `cmd:"" name:"readonly" help:"Refuse a tenant's writes."`
		Plan      tenantPlan      `cmd:"" help:"Put a tenant on another plan."`
		Override  tenantOverride  `cmd:"" help:"Replace limits of one tenant's plan, for a while or for good."`
		Kill      tenantKill      `cmd:"" help:"Cancel the statements of a tenant that run on its shard, or end its sessions. Programs say whose a session is with sharded_tag=on."`
		Throttle  tenantThrottle  `cmd:"" help:"Give a tenant one connection and little of its rate, for a while."`
		Slug      tenantSlug      `cmd:"" help:"Give a tenant a second name for people. Nothing is routed by it."`
		Provision tenantProvision `cmd:"" help:"Make what a tenant's model needs on its shard, or what is missing of it."`
		Remove    tenantRemove    `cmd:"" help:"Take a tenant out of the registry's answers. Its data stay, and enable brings it back."`
		Purge     tenantPurge     `cmd:"" help:"Destroy a tenant's data for good."`
	} `cmd:"" help:"Customers: where they live and what they may."`

	Top top `cmd:"" help:"Show which tenants keep the servers busy now, and what they wait for, until Ctrl-C. Programs say whose a session is with sharded_tag=on."`

	Plan struct {
		List planList `cmd:"" help:"List plans."`
		Set  planSet  `cmd:"" help:"Add a plan or change its limits."`
	} `cmd:"" help:"Tiers of tenants: their limits."`

	RLS struct {
		Generate rlsGenerate `cmd:"" help:"Print the policies, roles and grants for a database as a script."`
		Apply    rlsApply    `cmd:"" help:"Make databases what generate prints, each in one transaction; show the difference first with --dry-run."`
		Rollback rlsRollback `cmd:"" help:"Take the newest apply on a database back. Roles stay."`
		History  rlsHistory  `cmd:"" help:"Show what was applied to a database and rolled back, newest first."`
		Audit    rlsAudit    `cmd:"" help:"Look for ways around row-level security in databases."`
		Verify   rlsVerify   `cmd:"" help:"Try to break in: as one tenant that exists for the run only, go for the rows of another, in every table."`
		Rules    rlsRules    `cmd:"" help:"List the rules of the audit, or explain one."`
		Harden   rlsHarden   `cmd:"" help:"Take from everybody the built-in functions and languages that reach across tenants, as far as the server lets you."`
		Keys     struct {
			Generate keysGenerate `cmd:"" help:"Add a new key to the key file, or make the file. No shard knows the key before install."`
			Install  keysInstall  `cmd:"" help:"Let databases verify tenants signed with the keys of the file. Policies stay as they are."`
			List     keysList     `cmd:"" help:"Show which keys each database has."`
			Forget   keysForget   `cmd:"" help:"Take a key out of the key file, so that programs that read it sign with it no more."`
			Retire   keysRetire   `cmd:"" help:"Take a key from databases that programs sign with no more."`
		} `cmd:"" name:"keys" help:"Keys that tenants are signed with: generate, install, and later forget, retire."`
	} `cmd:"" name:"rls" help:"Row-level security of tables of tenants."`

	Completion completion `cmd:"" help:"Print a script that completes commands and flags in a shell."`
}

// Exit codes: scripts rely on them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	var grammar commands
	parser, err := newParser(&grammar)
	if err != nil {
		return complain(err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return complain(parseError(err))
	}
	a := newApp(ctx, &grammar)
	err = parsed.Run(a, parser)
	if lost := a.lost(); lost != nil && !errors.Is(err, lost) {
		err = errors.Join(err, lost)
	}
	return complain(err)
}

func newParser(grammar *commands) (*kong.Kong, error) {
	return kong.New(grammar,
		kong.Name("shardedpg"),
		kong.Description("Runs a fleet of sharded-pg: shards, tenants and plans in the registry."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.PostBuild(addExamples),
		kong.Vars{"version": version()},
	)
}

// version is that of the module, or the commit that it was built from.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return "shardedpg " + info.Main.Version + " " + info.GoVersion
	}
	return "shardedpg"
}

// parseError says where help is. It quotes no stray argument that may be part of a DSN whose quotes were forgotten.
func parseError(err error) error {
	text := err.Error()
	if strings.HasPrefix(text, "unexpected argument") && strings.ContainsAny(text, "=@") {
		text = "unexpected argument that looks like a part of a DSN: put quotes around the whole DSN"
	}
	help := "shardedpg --help"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			help = node.FullPath() + " --help"
		} else if path := parse.Context.Path; len(path) > 0 && path[len(path)-1].Node() != nil {
			help = path[len(path)-1].Node().FullPath() + " --help"
		}
	}
	return usage("%s; see %s", text, help)
}
