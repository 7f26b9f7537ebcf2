package shardedpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/rls"
)

// TenantCase says what to do with the case of tenant IDs before they are looked up.
type TenantCase string

// The ways to treat case. Use one of the latter two when IDs reach the program from places that do not keep case, such
// as host names.
const (
	TenantCaseExact TenantCase = "exact"
	TenantCaseLower TenantCase = "lower"
	TenantCaseUpper TenantCase = "upper"
)

// Guard says how much the driver refuses by the look of a statement.
type Guard string

const (
	// GuardDefault refuses what no reset undoes: changes of roles, databases, tablespaces and the server.
	GuardDefault Guard = "default"
	// GuardStrict allows only single SELECT, INSERT, UPDATE, DELETE, MERGE, WITH, VALUES and TABLE statements that name
	// no function which changes settings, runs a text or reaches other sessions. It is a trip-wire against mistakes, not a
	// wall against injected SQL.
	GuardStrict Guard = "strict"
)

// Config describes a connector. It is copied; zero values mean the defaults.
type Config struct {
	// DSN is the registry's PostgreSQL connection string, in any form that pgx reads, without sharded_* options. Required
	// unless Store is set. It is never printed.
	DSN string
	// Store replaces the registry in PostgreSQL, for example by registry.NewStatic. The connector does not close it.
	Store registry.Store
	// RegistrySchema is the schema of the registry's tables. Default "sharded_pg".
	RegistrySchema string

	// GUC is the setting that row-level security policies read. Default "app.current_tenant_id".
	GUC string
	// Signed makes the driver sign the tenant of each transaction with a key of KeyFile, so that policies generated with the
	// identity "signed" can tell its word from that of injected SQL. Programs may sign before policies ask for it. Default: off.
	Signed bool
	// KeyFile holds the keys, one on a line, as shardedpg rls keys generate writes it. It is read again when it changes.
	// Required with Signed.
	KeyFile string
	// TenantCase normalises tenant IDs. Default TenantCaseExact.
	TenantCase TenantCase
	// Guard is how much is refused by the look of a statement. Default GuardDefault.
	Guard Guard
	// GuardAllow are the first words of statements that GuardStrict lets through as well, such as "savepoint" or "explain". An
	// error of NewConnector lists all that can be allowed. Default none.
	GuardAllow []string
	// Tag puts the tenant into application_name for each transaction, so that pg_stat_activity names it: "shardedpg top" and
	// "shardedpg tenant kill" need it. All sessions of the server may read it. Default off.
	Tag bool
	// SkipVerify lets connections be made by a login that could step around row-level security. Only for tests of that.
	SkipVerify bool

	// CacheSize is the number of routes kept. Default 10000.
	CacheSize int
	// CacheTTL is how long a route is used without asking again. Changes arrive by notification long before; the TTL is
	// for a lost one. Default 60s.
	CacheTTL time.Duration
	// LookupTimeout is how long a statement waits for the registry's answer about a tenant whose route is not cached,
	// before ErrRegistryUnavailable. Raise it when the registry is far away; until the registry has answered once,
	// ConnectTimeout holds instead if it is longer. Default 150ms.
	LookupTimeout time.Duration

	// MaxConns is the number of statements that may run on one shard at once, and so the most connections to it. Behind
	// PgBouncer keep it at or below its pool size. Default 32.
	MaxConns int
	// TenantShare is how much of them one tenant may hold at once, whatever its plan says: above 0 and up to 1, rounded up to
	// whole connections. Default 0.5, so that no tenant owns a shard; use 1 where each shard has one tenant.
	TenantShare float64
	// TenantQueue is how many statements of one tenant may wait on a shard, before ErrTenantBusy. Default 1000.
	TenantQueue int
	// ShardQueue is how many statements may wait on a shard together, before ErrShardBusy. Default 10000.
	ShardQueue int
	// RateLimiter counts statements against the rates of plans. Default: limits.NewLocalRates, which counts those of this
	// process alone.
	RateLimiter limits.RateLimiter
	// AcquireTimeout is the longest wait for a connection. Default 30s.
	AcquireTimeout time.Duration
	// ConnectTimeout bounds opening a connection to a shard. Default 10s. It ends when its statement's context does, but not
	// before the server was silent for a second: what was begun is for the next statement then. Several hosts of
	// a DSN share it, and the addresses of a name.
	ConnectTimeout time.Duration

	// ConfigureConn adjusts the connections of a shard (a tracer, a TLS configuration) before they are opened. It must not
	// change BuildFrontend.
	ConfigureConn func(shard string, cc *pgx.ConnConfig) error
	// BeforeConnect changes a copy of a shard's connection configuration before each connection for tenants' statements: a
	// password that rotates, a token that expires. It is called by many goroutines and must not change BuildFrontend or the
	// database. The context has the values of the statement's, if there is one, and ends as ConnectTimeout says. Default: connections are made
	// as the shard's DSN says.
	BeforeConnect func(ctx context.Context, shard string, cc *pgx.ConnConfig) error
	// Logger gets the events that no caller sees: privileged access, shards that are down or back. Default: nothing is logged.
	Logger *slog.Logger
}

// ParseDSN reads the registry's connection string with the sharded_* options in it: a URL with query parameters, or
// keyword=value pairs. Each option sets a field of [Config], and has its default:
//
//	sharded_max_conns        MaxConns
//	sharded_tenant_share     TenantShare
//	sharded_tenant_queue     TenantQueue
//	sharded_shard_queue      ShardQueue
//	sharded_acquire_timeout  AcquireTimeout, a duration such as 30s
//	sharded_cache_size       CacheSize
//	sharded_cache_ttl        CacheTTL, a duration
//	sharded_lookup_timeout   LookupTimeout, a duration
//	sharded_guc              GUC
//	sharded_identity         Signed: plain or signed
//	sharded_key_file         KeyFile
//	sharded_schema           RegistrySchema
//	sharded_tenant_case      TenantCase: exact, lower or upper
//	sharded_guard            Guard: default or strict
//	sharded_guard_allow      GuardAllow, with commas between the words
//	sharded_tag              Tag: on or off
//	sharded_verify           SkipVerify, the other way round: on or off
//
// Unknown sharded_* options are an error; everything else is left to pgx. Errors do not repeat the string.
func ParseDSN(dsn string) (Config, error) {
	rest, options, err := splitOptions(dsn)
	if err != nil {
		return Config{}, err
	}
	cfg := Config{DSN: rest}
	var errs []error
	for _, o := range options {
		if err := cfg.setOption(o.name, o.value); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := backend.ParseConn(rest); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, fmt.Errorf("shardedpg: config: %w", err)
	}
	return cfg, nil
}

type option struct{ name, value string }

const optionPrefix = "sharded_"

func splitOptions(dsn string) (rest string, options []option, err error) {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		base, query, found := strings.Cut(dsn, "?")
		if !found {
			return dsn, nil, nil
		}
		var keep []string
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			if !strings.HasPrefix(name, optionPrefix) {
				keep = append(keep, pair)
				continue
			}
			value, err := url.QueryUnescape(value)
			if err != nil {
				return "", nil, fmt.Errorf("shardedpg: config: option %s is not URL-encoded", name)
			}
			options = append(options, option{name, value})
		}
		if len(keep) == 0 {
			return base, options, nil
		}
		return base + "?" + strings.Join(keep, "&"), options, nil
	}
	var keep []string
	for _, field := range splitKeywords(dsn) {
		name, value, _ := strings.Cut(field, "=")
		name = strings.TrimSpace(name)
		if !strings.HasPrefix(name, optionPrefix) {
			keep = append(keep, field)
			continue
		}
		options = append(options, option{name, strings.Trim(strings.TrimSpace(value), "'")})
	}
	return strings.Join(keep, " "), options, nil
}

// splitKeywords cuts a keyword=value string at blanks outside quotes (PostgreSQL manual, section 32.1.1.1).
func splitKeywords(dsn string) (fields []string) {
	start, quoted := 0, false
	for i := 0; i < len(dsn); i++ {
		switch c := dsn[i]; {
		case c == '\\':
			i++
		case c == '\'':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if i > start {
				fields = append(fields, dsn[start:i])
			}
			start = i + 1
		}
	}
	if start < len(dsn) {
		fields = append(fields, dsn[start:])
	}
	return fields
}

func (c *Config) setOption(name, value string) error {
	bad := func(want string) error { return fmt.Errorf("option %s: %q is not %s", name, value, want) }
	var err error
	switch name {
	case "sharded_guc":
		c.GUC = value
	case "sharded_schema":
		c.RegistrySchema = value
	case "sharded_cache_size":
		if c.CacheSize, err = strconv.Atoi(value); err != nil || c.CacheSize < 1 {
			return bad("a positive number")
		}
	case "sharded_max_conns":
		if c.MaxConns, err = strconv.Atoi(value); err != nil || c.MaxConns < 1 {
			return bad("a positive number")
		}
	case "sharded_tenant_share":
		if c.TenantShare, err = strconv.ParseFloat(value, 64); err != nil || !(c.TenantShare > 0 && c.TenantShare <= 1) {
			return bad("a number above 0 and up to 1")
		}
	case "sharded_tenant_queue":
		if c.TenantQueue, err = strconv.Atoi(value); err != nil || c.TenantQueue < 1 {
			return bad("a positive number")
		}
	case "sharded_shard_queue":
		if c.ShardQueue, err = strconv.Atoi(value); err != nil || c.ShardQueue < 1 {
			return bad("a positive number")
		}
	case "sharded_cache_ttl":
		if c.CacheTTL, err = time.ParseDuration(value); err != nil || c.CacheTTL <= 0 {
			return bad("a positive duration such as 60s")
		}
	case "sharded_lookup_timeout":
		if c.LookupTimeout, err = time.ParseDuration(value); err != nil || c.LookupTimeout <= 0 {
			return bad("a positive duration such as 150ms")
		}
	case "sharded_acquire_timeout":
		if c.AcquireTimeout, err = time.ParseDuration(value); err != nil || c.AcquireTimeout <= 0 {
			return bad("a positive duration such as 30s")
		}
	case "sharded_identity":
		if value != "plain" && value != "signed" {
			return bad("plain or signed")
		}
		c.Signed = value == "signed"
	case "sharded_key_file":
		c.KeyFile = value
	case "sharded_tenant_case":
		c.TenantCase = TenantCase(value)
	case "sharded_guard":
		c.Guard = Guard(value)
	case "sharded_guard_allow":
		c.GuardAllow = strings.FieldsFunc(strings.ToLower(value), func(r rune) bool { return r == ',' || r == ' ' })
	case "sharded_tag", "sharded_verify":
		if value != "on" && value != "off" {
			return bad("on or off")
		}
		if name == "sharded_tag" {
			c.Tag = value == "on"
		} else {
			c.SkipVerify = value == "off"
		}
	default:
		return fmt.Errorf("unknown option %s; the options are sharded_guc, sharded_schema, sharded_cache_size, "+
			"sharded_cache_ttl, sharded_lookup_timeout, sharded_max_conns, sharded_tenant_share, "+
			"sharded_tenant_queue, sharded_shard_queue, sharded_acquire_timeout, sharded_identity, sharded_key_file, "+
			"sharded_tenant_case, sharded_guard, sharded_guard_allow, sharded_tag and sharded_verify", name)
	}
	return nil
}

func (c *Config) withDefaults() {
	set := func(to *time.Duration, d time.Duration) {
		if *to == 0 {
			*to = d
		}
	}
	if c.GUC == "" {
		c.GUC = rls.DefaultGUC
	}
	if c.TenantCase == "" {
		c.TenantCase = TenantCaseExact
	}
	if c.Guard == "" {
		c.Guard = GuardDefault
	}
	c.GuardAllow = slices.Clone(c.GuardAllow)
	if c.CacheSize == 0 {
		c.CacheSize = 10000
	}
	if c.MaxConns == 0 {
		c.MaxConns = 32
	}
	if c.TenantShare == 0 {
		c.TenantShare = 0.5
	}
	if c.TenantQueue == 0 {
		c.TenantQueue = 1000
	}
	if c.ShardQueue == 0 {
		c.ShardQueue = 10000
	}
	if c.RateLimiter == nil {
		c.RateLimiter = limits.NewLocalRates(max(c.CacheSize, 1))
	}
	set(&c.CacheTTL, time.Minute)
	set(&c.LookupTimeout, 150*time.Millisecond)
	set(&c.AcquireTimeout, 30*time.Second)
	set(&c.ConnectTimeout, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) validate() error {
	var errs []error
	if c.DSN == "" && c.Store == nil {
		errs = append(errs, errors.New("no registry: set DSN to the registry's connection string, or Store"))
	}
	if err := rls.CheckGUC(c.GUC); err != nil {
		errs = append(errs, err)
	}
	switch c.TenantCase {
	case TenantCaseExact, TenantCaseLower, TenantCaseUpper:
	default:
		errs = append(errs, fmt.Errorf("tenant case %q is not exact, lower or upper", c.TenantCase))
	}
	if c.Guard != GuardDefault && c.Guard != GuardStrict {
		errs = append(errs, fmt.Errorf("guard %q is not default or strict", c.Guard))
	}
	if err := backend.CheckGuardWords(c.GuardAllow); err != nil {
		errs = append(errs, fmt.Errorf("guard allow: %w", err))
	}
	if len(c.GuardAllow) > 0 && c.Guard == GuardDefault {
		errs = append(errs, errors.New("guard allow: only the strict guard asks for it; set sharded_guard=strict"))
	}
	if c.Signed != (c.KeyFile != "") {
		errs = append(errs, errors.New("signed tenants need a key file, and a key file is for nothing else: set both (sharded_identity=signed, "+
			"sharded_key_file), or neither"))
	}
	if c.CacheSize < 1 || c.MaxConns < 1 || c.TenantQueue < 1 || c.ShardQueue < 1 {
		errs = append(errs, errors.New("cache size, max conns and queues must be positive"))
	}
	if !(c.TenantShare > 0 && c.TenantShare <= 1) {
		errs = append(errs, fmt.Errorf("tenant share %v is not above 0 and up to 1", c.TenantShare))
	}
	if c.CacheTTL < 0 || c.LookupTimeout < 0 || c.AcquireTimeout < 0 || c.ConnectTimeout < 0 {
		errs = append(errs, errors.New("durations must be positive"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shardedpg: config: %w", err)
	}
	return nil
}

// String describes the configuration without its connection string.
func (c Config) String() string {
	return fmt.Sprintf("shardedpg.Config{GUC: %s, MaxConns: %d, DSN: (hidden)}", c.GUC, c.MaxConns)
}

// GoString keeps the connection string out of %#v, too.
func (c Config) GoString() string { return c.String() }
