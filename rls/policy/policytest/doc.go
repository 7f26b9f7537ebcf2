// Package policytest holds databases to try the policy generator and the audit on: the shape of an application that many
// know, one with partitions of all kinds, one with views and functions, and one of any number of tables.
package policytest

import (
	"fmt"
	"strings"

	"github.com/sharded-pg/sharded-pg/rls/policy"
)

// Database is a schema, and what to declare about it.
type Database struct {
	Name   string
	Schema []string // statements
	Config policy.Config
	Tables int // with a tenant, partitions included
}

// All returns the databases, for an app role of that name. Roles are the server's, so each test brings its own.
func All(app string) []Database {
	return []Database{Chatwoot(app), Partitioned(app), Views(app)}
}

func config(app string) policy.Config {
	return policy.Config{App: app, Owner: app + "_owner", Maintenance: app + "_maintenance"}
}

// Chatwoot has the shape of Chatwoot, a support desk: bigint accounts in one schema, serial keys, foreign keys and unique
// indexes that do not carry the account, users that belong to many accounts.
func Chatwoot(app string) Database {
	d := Database{Name: "Chatwoot", Config: config(app)}
	d.Config.TenantColumn = "account_id"
	d.Config.Global = []string{"public.platform_apps", "public.installation_configs"}
	d.Config.Private = []string{"public.schema_migrations", "public.ar_internal_metadata", "public.users", "public.accounts"}
	for _, table := range []string{"platform_apps", "installation_configs", "schema_migrations", "ar_internal_metadata", "users", "accounts"} {
		d.Schema = append(d.Schema, "create table "+table+" (id bigserial primary key, name text)")
	}
	for _, t := range [][2]string{
		{"account_users", "user_id bigint references users, role int"},
		{"agent_bots", "name text, bot_type int"},
		{"agent_bot_inboxes", "inbox_id int, agent_bot_id bigint references agent_bots"},
		{"articles", "title text, content text, slug text unique, meta jsonb default '{}', views int"},
		{"attachments", "message_id int, external_url text"},
		{"audits", "auditable_id bigint, audited_changes jsonb"},
		{"automation_rules", "name text, conditions jsonb, actions jsonb"},
		{"campaigns", "title text, message text"},
		{"canned_responses", "short_code text, content text"},
		{"categories", "name text, slug text, position int"},
		{"channel_api", "webhook_url text, identifier text unique"},
		{"channel_email", "email text unique, imap_enabled boolean"},
		{"channel_web_widgets", "website_url text, website_token text unique"},
		{"contacts", "name text, email text, phone_number text"},
		{"contact_inboxes", "contact_id bigint references contacts on delete cascade, source_id text"},
		{"conversations", "inbox_id bigint, status int, contact_id bigint references contacts on delete set null, uuid uuid default gen_random_uuid() unique"},
		{"conversation_participants", "user_id bigint, conversation_id bigint references conversations"},
		{"csat_survey_responses", "conversation_id bigint references conversations, rating int"},
		{"custom_attribute_definitions", "attribute_key text"},
		{"custom_filters", "name text, query jsonb"},
		{"dashboard_apps", "title text, content jsonb"},
		{"email_templates", "name text, body text"},
		{"folders", "name text"},
		{"inboxes", "channel_id int, name text"},
		{"integrations_hooks", "app_id text, settings jsonb"},
		{"labels", "title text, color text"},
		{"macros", "name text, actions jsonb"},
		{"mentions", "user_id bigint, conversation_id bigint references conversations"},
		{"messages", "content text, conversation_id bigint references conversations on delete cascade, sentiment jsonb"},
		{"notes", "content text, contact_id bigint references contacts"},
		{"notifications", "user_id bigint, read_at timestamptz"},
		{"portals", "name text, slug text unique"},
		{"reporting_events", "name text, value float8"},
		{"sla_policies", "name text"},
		{"teams", "name text, allow_auto_assign boolean"},
		{"telegram_bots", "name text"},
		{"webhooks", "url text"},
		{"working_hours", "day_of_week int"},
	} {
		d.Schema = append(d.Schema, fmt.Sprintf("create table %s (id bigserial primary key, account_id bigint references accounts, %s)", t[0], t[1]))
		d.Tables++
	}
	d.Schema = append(d.Schema, "create index on messages (account_id, conversation_id)", "create index on contacts (account_id)")
	return d
}

// Partitioned has tables partitioned by the tenant (list and hash), by time below a list and by time alone, and an
// inheritance child. Its tenants are uuids.
func Partitioned(app string) Database {
	d := Database{Name: "partitioned", Config: config(app), Schema: []string{"create schema app"}}
	add := func(statement string, args ...any) {
		d.Schema = append(d.Schema, "create table "+fmt.Sprintf(statement, args...))
		d.Tables++
	}
	const columns = "tenant_id uuid, id bigint not null, at timestamptz not null default now(), note text"
	for i := range 4 {
		add("app.listed_%d (%s, primary key (tenant_id, id)) partition by list (tenant_id)", i, columns)
		add("app.listed_%d_rest partition of app.listed_%[1]d default", i)
		add("app.hashed_%d (%s, primary key (tenant_id, id)) partition by hash (tenant_id)", i, columns)
		for n := range 2 {
			add("app.hashed_%d_%d partition of app.hashed_%[1]d for values with (modulus 2, remainder %[2]d)", i, n)
		}
		add("app.timed_%d (%s, primary key (tenant_id, id, at)) partition by range (at)", i, columns)
		add("app.timed_%d_old partition of app.timed_%[1]d for values from (minvalue) to ('2026-01-01')", i)
		add("app.timed_%d_new partition of app.timed_%[1]d for values from ('2026-01-01') to (maxvalue)", i)
	}
	add("app.nested (%s, primary key (tenant_id, id, at)) partition by list (tenant_id)", columns)
	add("app.nested_rest partition of app.nested default partition by range (at)")
	add("app.nested_rest_all partition of app.nested_rest for values from (minvalue) to (maxvalue)")
	add("app.base (%s, primary key (tenant_id, id))", columns)
	add("app.derived (more text) inherits (app.base)")
	add(`app."Odd ""name""" (%s, primary key (tenant_id, id))`, columns)
	d.Schema = append(d.Schema, "create index on app.derived (tenant_id)")
	return d
}

// Views has views over views, materialized views and functions. Its tenants are texts.
func Views(app string) Database {
	d := Database{Name: "views", Config: config(app), Schema: []string{"create schema app", "create table app.countries (code text primary key)"}}
	d.Config.Global = []string{"app.countries", "app.country_list"}
	for i := range 32 {
		d.Schema = append(d.Schema, fmt.Sprintf(`create table app.t%d (tenant_id text, id bigserial, total bigint, country text references app.countries,
 primary key (tenant_id, id))`, i))
		d.Tables++
	}
	for i := range 10 {
		d.Schema = append(d.Schema, fmt.Sprintf("create view app.v%d as select * from app.t%[1]d where total > 0", i),
			fmt.Sprintf("create view app.vv%d as select v.total, t.id from app.v%[1]d v join app.t%d t using (tenant_id)", i, i+10))
	}
	d.Schema = append(d.Schema,
		"create view app.constants as select 1 as one",
		"create materialized view app.totals as select tenant_id, sum(total) as total from app.t0 group by 1",
		"create materialized view app.deep_totals as select count(*) as n from app.vv1",
		"create materialized view app.country_list as select code from app.countries",
		"create sequence app.numbers",
		"create function app.total_of(wanted bigint) returns bigint language sql stable as 'select total from app.t1 where id = wanted'",
		`create function app.touch() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as
 'begin new.total := coalesce(new.total, 0); return new; end'`,
		"create trigger touch before insert on app.t2 for each row execute function app.touch()",
		`create function app.add_up() returns bigint language sql stable begin atomic select sum(total) from app.t3; end`)
	return d
}

// Wide has n tables with their keys.
func Wide(app string, n int) Database {
	d := Database{Name: "wide", Config: config(app), Tables: n, Schema: []string{"create schema app"}}
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "create table app.t%d (tenant_id uuid, id bigint, parent bigint, email text, primary key (tenant_id, id));\n", i)
		if i%100 == 99 {
			d.Schema = append(d.Schema, b.String())
			b.Reset()
		}
	}
	d.Schema = append(d.Schema, b.String()+"select 1")
	return d
}
