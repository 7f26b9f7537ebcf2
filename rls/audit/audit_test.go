package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/rls"
	"github.com/sharded-pg/sharded-pg/rls/audit"
	"github.com/sharded-pg/sharded-pg/rls/policy"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
)

const goodVersion = 180099 // newer than all floors, so that an old server on this machine is no finding

// onEachMajor runs test on servers of the oldest PostgreSQL with security_invoker and of the newest, with and without
// prepared transactions, which take a restart to change.
func onEachMajor(t *testing.T, test func(t *testing.T, good, bad *pgtest.Server)) {
	t.Helper()
	majors, err := pgtest.Majors(t.Context())
	require.NoError(t, err)
	majors = slices.DeleteFunc(majors, func(m int) bool { return m < 15 })
	require.NotEmpty(t, majors)
	if testing.Short() {
		majors = []int{slices.Max(majors)}
	}
	for _, major := range slices.Compact([]int{slices.Min(majors), slices.Max(majors)}) {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			start := func(prepared string) *pgtest.Server {
				s, err := pgtest.Start(t.Context(), pgtest.Options{
					Name: "audit", Major: major, Settings: map[string]string{"max_prepared_transactions": prepared},
				})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, s.Stop()) })
				return s
			}
			test(t, start("0"), start("10"))
		})
	}
}

// subject is a database and what to audit it with.
type subject struct {
	policytest.Database
	server *pgtest.Server
	name   string
	conn   *pgx.Conn
	audit  audit.Config
}

var roles atomic.Int64

func appRole() string { return fmt.Sprintf("app_%d", roles.Add(1)) }

// generated makes a database that is as the generator says.
func generated(t testing.TB, s *pgtest.Server, d policytest.Database) *subject {
	t.Helper()
	sub := &subject{Database: d, server: s, name: s.NewDatabase(t, d.Schema...)}
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres", sub.name))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	sub.conn = conn
	_, err = policy.Apply(t.Context(), conn, d.Config, nil)
	require.NoError(t, err)
	sub.audit = audit.Config{
		App: []string{d.Config.App}, TenantColumn: d.Config.TenantColumn, Global: d.Config.Global, Level: audit.Hardened,
	}.OnServer(goodVersion)
	return sub
}

func (s *subject) fill(text string) string {
	return strings.NewReplacer("{app}", s.Config.App, "{owner}", s.Config.Owner, "{maintenance}", s.Config.Maintenance, "{db}", s.name).Replace(text)
}

// found lists rules and objects.
func found(r *audit.Report) (all []string) {
	for _, f := range r.Findings {
		all = append(all, f.Rule+" "+f.Object)
	}
	return all
}

func TestWhatTheGeneratorMakesHasNoFinding(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, good, _ *pgtest.Server) {
		for _, d := range []policytest.Database{policytest.Partitioned(appRole()), policytest.Views(appRole())} {
			t.Run(d.Name, func(t *testing.T) {
				s := generated(t, good, d)
				s.audit.Level = audit.Standard
				r, err := audit.Run(t.Context(), s.conn, s.audit)
				require.NoError(t, err)
				require.Empty(t, r.NotRun)
				require.Equal(t, audit.None, r.Worst(), "%v", found(r))
				require.NotEmpty(t, r.Findings, "rights that PostgreSQL gives to everybody are accepted, and shown")
				require.Equal(t, d.Tables, r.Tables)

				d.Config.Lockdown = true
				_, err = policy.Apply(t.Context(), s.conn, d.Config, nil)
				require.NoError(t, err)
				s.audit.Level = audit.Hardened
				r, err = audit.Run(t.Context(), s.conn, s.audit)
				require.NoError(t, err)
				require.Equal(t, []string{"SPG072 " + d.Config.App}, found(r), "the driver sets the tenant with set_config")

				keys, err := rls.ParseKeys("1 " + strings.Repeat("ab", 32))
				require.NoError(t, err)
				d.Config.KeyOwner = d.Config.App + "_keys"
				_, err = policy.InstallKeys(t.Context(), s.conn, d.Config, []*rls.ShardKey{keys[0].For("s1")}, nil)
				require.NoError(t, err)
				r, err = audit.Run(t.Context(), s.conn, s.audit)
				require.NoError(t, err)
				require.Equal(t, []string{"SPG072 " + d.Config.App, "SPG087 shardedpg.ctx_key"}, found(r))
				d.Config.Identity = policy.Signed
				_, err = policy.Apply(t.Context(), s.conn, d.Config, nil)
				require.NoError(t, err)
				r, err = audit.Run(t.Context(), s.conn, s.audit)
				require.NoError(t, err)
				require.Empty(t, r.NotRun)
				require.Empty(t, found(r), "nothing trusts what set_config sets")
			})
		}
	})
}

// hardened is a database in which no rule finds anything.
func hardened(t testing.TB, s *pgtest.Server) *subject {
	t.Helper()
	d := policytest.Views(appRole())
	d.Config.Lockdown = true
	sub := generated(t, s, d)
	require.NoError(t, s.Exec(t.Context(), sub.name, sub.fill("revoke execute on function pg_catalog.set_config(text, text, boolean) from {app}")))
	return sub
}

func TestEachRuleFindsItsFaultAndNothingBefore(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, good, _ *pgtest.Server) {
		s := hardened(t, good)
		r, err := audit.Run(t.Context(), s.conn, s.audit)
		require.NoError(t, err)
		require.Empty(t, r.NotRun)
		require.Empty(t, found(r))

		var covered []string
		for _, f := range faults {
			covered = append(covered, f.rule)
			if f.plant == "" {
				continue // see TestOneBadDatabaseHasAllFaults
			}
			tx, err := s.conn.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), s.fill(f.plant), pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err, f.rule)
			r, err := audit.RunOnly(t.Context(), tx, s.audit, f.rule)
			require.NoError(t, err, f.rule)
			require.Empty(t, r.NotRun)
			require.Contains(t, found(r), f.rule+" "+s.fill(f.object), "%s", f.plant)
			require.NoError(t, tx.Rollback(t.Context()))
		}
		var all []string
		for _, rule := range audit.Rules() {
			all = append(all, rule.ID)
			require.NotEmpty(t, rule.Why, rule.ID)
			require.NotEmpty(t, rule.Fix, rule.ID)
		}
		require.Equal(t, all, covered, "each rule has a fault to find")
	})
}

func TestARestrictivePolicyProtectsOnlyIfItAsksForTheTenant(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Views(appRole()))
	checks := func(statements ...string) []string {
		require.NoError(t, s.server.Exec(t.Context(), s.name, statements...))
		r, err := audit.RunOnly(t.Context(), s.conn, s.audit, "SPG027", "SPG028")
		require.NoError(t, err)
		require.Empty(t, r.NotRun)
		return found(r)
	}
	require.Empty(t, checks("alter policy shardedpg_tenant on app.t1 using (true) with check (true)"), "the guard holds")
	require.Equal(t, []string{"SPG028 app.t1/shardedpg_tenant"}, checks("alter policy shardedpg_guard on app.t1 with check (tenant_id <> '')"))
	require.Equal(t, []string{"SPG027 app.t1/shardedpg_tenant", "SPG028 app.t1/shardedpg_tenant"},
		checks("alter policy shardedpg_guard on app.t1 using (tenant_id <> '')"))
}

func TestOneBadDatabaseHasAllFaults(t *testing.T) {
	t.Parallel()
	onEachMajor(t, func(t *testing.T, _, bad *pgtest.Server) {
		s := hardened(t, bad)
		for _, f := range faults {
			if f.plant != "" {
				require.NoError(t, bad.Exec(t.Context(), s.name, s.fill(f.plant)), f.rule)
			}
		}
		defer func() { // the server refuses to stop in order while roles have settings of a database that is dropped
			require.NoError(t, bad.Exec(t.Context(), s.name, s.fill("alter role {app} nosuperuser")))
		}()
		s.audit = s.audit.OnServer(150008)
		began := time.Now()
		r, err := audit.Run(t.Context(), s.conn, s.audit)
		require.NoError(t, err)
		t.Logf("%d rules found %d faults in %v", len(audit.Rules()), len(r.Findings), time.Since(began).Round(time.Millisecond))
		require.Empty(t, r.NotRun)
		have := found(r)
		for _, f := range faults {
			object := strings.ReplaceAll(s.fill(f.object), "{version}", r.Version)
			require.Contains(t, have, f.rule+" "+object)
		}
		require.Equal(t, audit.Critical, r.Worst())
		require.True(t, slices.IsSortedFunc(r.Findings, func(a, b audit.Finding) int {
			switch {
			case a.Severity == b.Severity:
				return 0
			case a.Severity.AtLeast(b.Severity):
				return -1
			}
			return 1
		}), "the worst come first")
	})
}

func TestAnAuditOfNothingFails(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Wide(appRole(), 1))
	for says, c := range map[string]audit.Config{
		"which app role":                  {},
		`has no role ["nobody_here"]`:     {App: []string{s.Config.App, "nobody_here"}},
		"no table with the tenant column": {App: []string{s.Config.App}, TenantColumn: "nowhere"},
		"is not a custom parameter name":  {App: []string{s.Config.App}, GUC: "tenant"},
	} {
		_, err := audit.Run(t.Context(), s.conn, c)
		require.ErrorContains(t, err, says)
	}
}

func TestAnAuditWritesNothing(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Wide(appRole(), 1))
	require.NoError(t, s.server.Exec(t.Context(), s.name, "alter database "+s.name+" set default_transaction_read_only = on"))
	conn, err := pgx.Connect(t.Context(), s.server.DSN("postgres", s.name))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	r, err := audit.Run(t.Context(), conn, s.audit)
	require.NoError(t, err)
	require.Empty(t, r.NotRun, "no rule needs to write")
}

func TestARuleThatCannotBeRunIsNoRuleThatFoundNothing(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Wide(appRole(), 1))
	r, err := audit.RunBroken(t.Context(), s.conn, s.audit)
	require.NoError(t, err)
	require.Len(t, r.NotRun, 1)
	require.Contains(t, r.NotRun[0], `SPG002: ERROR: relation "nowhere" does not exist`)
	require.Equal(t, audit.Critical, r.Worst(), "as bad as what it could have found")
	var sarif bytes.Buffer
	require.NoError(t, audit.WriteSARIF(&sarif, []*audit.Report{r}))
	require.Contains(t, sarif.String(), `"executionSuccessful": false`)
}

func TestWaiversAcceptForAWhile(t *testing.T) {
	t.Parallel()
	report := func() *audit.Report {
		return &audit.Report{Database: "app", Shard: "eu1", Findings: []audit.Finding{
			{Rule: "SPG001", Severity: audit.Critical, Object: "app"},
			{Rule: "SPG040", Severity: audit.Medium, Object: "app.a_key"},
			{Rule: "SPG040", Severity: audit.Medium, Object: "app.b_key"},
		}}
	}
	until := time.Date(2027, 3, 31, 0, 0, 0, 0, time.UTC)
	during, after := until.Add(23*time.Hour), until.Add(24*time.Hour)
	cases := map[string]struct {
		waiver   audit.Waiver
		shard    string
		now      time.Time
		accepted int
		notes    int
	}{
		"any object":     {audit.Waiver{Rule: "SPG040"}, "eu1", during, 2, 0},
		"one object":     {audit.Waiver{Rule: "SPG040", Object: "app.a_key"}, "eu1", during, 1, 0},
		"a pattern":      {audit.Waiver{Rule: "SPG040", Object: "app.*_key"}, "eu1", during, 2, 0},
		"another rule":   {audit.Waiver{Rule: "SPG041", Shard: "eu1"}, "eu1", during, 0, 1},
		"another shard":  {audit.Waiver{Rule: "SPG040", Shard: "us1"}, "eu1", during, 0, 0},
		"expired":        {audit.Waiver{Rule: "SPG040"}, "eu1", after, 0, 1},
		"another object": {audit.Waiver{Rule: "SPG040", Object: "app.c_key"}, "eu1", during, 0, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := report()
			c.waiver.Reason, c.waiver.Expires = "because", until
			r.Waive([]audit.Waiver{c.waiver}, c.shard, c.now)
			accepted := 0
			for _, f := range r.Findings {
				if f.Accepted != "" {
					accepted++
					require.Contains(t, f.Accepted, "waived until 2027-03-31: because")
				}
			}
			require.Equal(t, c.accepted, accepted)
			require.Len(t, r.Notes, c.notes)
		})
	}
	r := report()
	r.Waive([]audit.Waiver{{Rule: "SPG001", Reason: "x", Expires: until}}, "eu1", during)
	require.Equal(t, audit.Medium, r.Worst(), "what is accepted does not count")
}

func TestSARIFNamesRulesObjectsAndWhatIsAccepted(t *testing.T) {
	t.Parallel()
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Wide(appRole(), 1))
	s.audit.Level = audit.Standard
	require.NoError(t, s.server.Exec(t.Context(), s.name, "alter table app.t0 disable row level security"))
	r, err := audit.Run(t.Context(), s.conn, s.audit)
	require.NoError(t, err)
	r.Shard = "eu1"
	var out bytes.Buffer
	require.NoError(t, audit.WriteSARIF(&out, []*audit.Report{r}))
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID, Level string
				Locations     []struct {
					LogicalLocations []struct{ FullyQualifiedName string }
				}
				Suppressions []struct{ Justification string }
			}
		}
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &log))
	require.Equal(t, "2.1.0", log.Version)
	require.Len(t, log.Runs[0].Tool.Driver.Rules, len(audit.Rules()))
	require.Len(t, log.Runs[0].Results, len(r.Findings))
	first := log.Runs[0].Results[0]
	require.Equal(t, []string{"SPG020", "error", "eu1/" + s.name + "/app.t0"},
		[]string{first.RuleID, first.Level, first.Locations[0].LogicalLocations[0].FullyQualifiedName})
	last := log.Runs[0].Results[len(r.Findings)-1]
	require.Contains(t, last.Suppressions[0].Justification, "level standard")
}

func TestAThousandTablesAreAuditedInSeconds(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a server for a while; run without -short")
	}
	s := generated(t, pgtest.Shared(t, "audit"), policytest.Wide(appRole(), 1000))
	began := time.Now()
	r, err := audit.Run(t.Context(), s.conn, s.audit)
	require.NoError(t, err)
	require.Empty(t, r.NotRun)
	t.Logf("audit of %d tables: %v", r.Tables, time.Since(began).Round(time.Millisecond))
}
