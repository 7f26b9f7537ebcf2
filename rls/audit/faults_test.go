package audit_test

const (
	secdef = ` security definer set search_path = pg_catalog, pg_temp `
	own    = `tenant_id = (select nullif(current_setting('app.current_tenant_id', true), ''))`
)

// faults are one misconfiguration for each rule, and the object that the rule must name. {app}, {owner}, {maintenance} and
// {db} are replaced. All of them fit into one database.
var faults = []struct{ rule, plant, object string }{
	{"SPG001", `alter role {app} superuser`, "{app}"},
	{"SPG002", `alter role {app} bypassrls`, "{app}"},
	{"SPG003", `alter table app.t1 owner to {app}`, "app.t1"},
	{"SPG004", `grant {maintenance} to {app}`, "{app}"},
	{"SPG005", `grant {owner} to {app}`, "{app}"},
	{"SPG006", `grant pg_read_all_stats to {app}`, "{app}"},
	{"SPG007", `alter role {app} createrole`, "{app}"},
	{"SPG008", `alter role {app} set app.current_tenant_id = 'acme'`, "{app}@ALL"},
	{"SPG009", `alter role {app} in database {db} reset statement_timeout`, "{app}"},
	{"SPG010", `alter role {app} in database {db} set search_path = app`, "{app}"},
	{"SPG011", `create schema tenant_b; create schema tenant_c; grant usage on schema tenant_b, tenant_c to {app}`, "{app}"},
	{"SPG012", `alter database {db} owner to {app}`, "{db}"},
	{"SPG020", `alter table app.t2 disable row level security`, "app.t2"},
	{"SPG021", `alter table app.t3 no force row level security`, "app.t3"},
	{"SPG022", `alter table app.t4 disable row level security`, "app.t4"},
	{"SPG023", `drop policy shardedpg_tenant on app.t5`, "app.t5"},
	{"SPG024", `create table app.notes (id int, body text); grant select on app.notes to {app}`, "app.notes"},
	{"SPG025", `create table app.parted (tenant_id text not null, id int) partition by list (id); create table app.part_1 partition of app.parted default;
 alter table app.parted enable row level security; alter table app.parted force row level security`, "app.part_1"},
	{"SPG026", `create table app.nn (tenant_id text); alter table app.nn enable row level security; alter table app.nn force row level security`, "app.nn"},
	{"SPG027", `drop policy shardedpg_guard on app.t6; create policy pub on app.t6 for select using (total > 0)`, "app.t6/pub"},
	{"SPG028", `drop policy shardedpg_guard on app.t7; alter policy shardedpg_tenant on app.t7 with check (true)`, "app.t7/shardedpg_tenant"},
	{"SPG029", `drop policy shardedpg_tenant on app.t8; create policy s on app.t8 for select using (` + own + `)`, "app.t8"},
	{"SPG030", `alter policy shardedpg_tenant on app.t9 using (nullif(current_setting('app.current_tenant_id', true), '') is null or ` + own + `)`, "app.t9/shardedpg_tenant"},
	{"SPG031", `alter policy shardedpg_tenant on app.t10 using (tenant_id = current_setting('app.current_tenant_id'))`, "app.t10/shardedpg_tenant"},
	{"SPG032", `alter policy shardedpg_tenant on app.t11 using (tenant_id = nullif(current_setting('app.current_tenant_id', true), ''))`, "app.t11/shardedpg_tenant"},
	{"SPG033", `create function app.ten() returns text language sql immutable as 'select current_setting(''app.current_tenant_id'', true)'`, "app.ten"},
	{"SPG034", `create function app.tv() returns text language sql volatile as 'select current_setting(''app.current_tenant_id'', true)';
 alter policy shardedpg_tenant on app.t12 using (tenant_id = (select app.tv()))`, "app.t12/shardedpg_tenant"},
	{"SPG035", `alter policy shardedpg_tenant on app.t13 using (tenant_id = (select nullif(current_setting('app.tenant', true), '')))`, "app.t13/shardedpg_tenant"},
	{"SPG036", `alter policy shardedpg_tenant on app.t14 using (tenant_id::varchar = (select current_setting('app.current_tenant_id', true)))`, "app.t14/shardedpg_tenant"},
	{"SPG037", `create table app.noix (tenant_id text not null, x int); alter table app.noix enable row level security; alter table app.noix force row level security`, "app.noix"},
	{"SPG038", `create index lk on app.t15 (tenant_id, (total::numeric))`, "app.lk"},
	{"SPG039", `create collation app.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
 create table app.loose (tenant_id text collate app.loose not null)`, "app.loose"},
	{"SPG040", `alter table app.t16 add constraint t16_total unique (total)`, "app.t16_total"},
	{"SPG041", `create unique index on app.t17 (id); alter table app.t18 add constraint bad foreign key (total) references app.t17 (id) on delete cascade`, "app.t18/bad"},
	{"SPG042", `grant truncate on app.t19 to {app}`, "app.t19"},
	{"SPG043", `grant references, trigger on app.t20 to {app}`, "app.t20"},
	{"SPG044", `grant select on app.t21 to public`, "app.t21"},
	{"SPG045", `grant update on sequence app.t22_id_seq to {app}`, "app.t22_id_seq"},
	{"SPG046", `alter default privileges for role {owner} in schema app grant select on tables to {app}`, "{owner} in app"},
	{"SPG047", `alter table app.t23 add constraint fk check (tenant_id = current_setting('app.current_tenant_id'))`, "app.t23/fk"},
	{"SPG050", `create view app.v_bad as select * from app.t24; grant select on app.v_bad to {app}`, "app.v_bad"},
	{"SPG051", `grant select on app.totals to {app}`, "app.totals"},
	{"SPG052", `create function app.allrows() returns bigint language sql` + secdef + `as 'select count(*) from app.t25'`, "app.allrows()"},
	{"SPG053", `create function app.sd() returns int language plpgsql security definer as 'begin return 1; end'; alter function app.sd() owner to {owner}`, "app.sd"},
	{"SPG054", `create function app.sd2() returns int language plpgsql security definer set search_path = app as 'begin return 1; end';
 alter function app.sd2() owner to {owner}`, "app.sd2"},
	{"SPG055", `create function app.lp(text) returns boolean language plpgsql leakproof cost 0.0001 as 'begin raise notice ''%'', $1; return true; end'`, "app.lp"},
	{"SPG056", `create function app.run_report(q text) returns setof text language plpgsql as 'begin return query execute q; end'`, "app.run_report(q text)"},
	{"SPG057", `create foreign data wrapper w1; create server s1 foreign data wrapper w1; create foreign table app.ft (tenant_id text, note text) server s1;
 grant select on app.ft to {app}`, "app.ft"},
	{"SPG058", `create foreign data wrapper w2; grant usage on foreign data wrapper w2 to {app}`, "w2"},
	{"SPG059", `create function app.tg() returns trigger language plpgsql` + secdef + `as 'begin return new; end';
 create trigger tgx before insert on app.t26 for each row execute function app.tg()`, "app.t26/tgx"},
	{"SPG060", `create table public.log (x text); create rule rr as on insert to app.t27 do also insert into public.log values (new.tenant_id)`, "app.t27/rr"},
	{"SPG061", `create publication pb for table app.t28`, "app.t28"},
	{"SPG062", `create table app.secrets (x text); create view app.v_secrets as select * from app.secrets; grant select on app.v_secrets to {app}`, "app.v_secrets"},
	{"SPG070", `grant temporary on database {db} to public`, "{db}"},
	{"SPG071", `grant create on schema public to public`, "public"},
	{"SPG072", `grant execute on function pg_catalog.set_config(text, text, boolean) to {app}`, "{app}"},
	{"SPG073", `grant execute on function pg_catalog.pg_cancel_backend(int) to public`, "{app}"},
	{"SPG074", `grant execute on function pg_catalog.pg_advisory_lock(bigint) to public`, "{app}"},
	{"SPG075", `grant execute on function pg_catalog.query_to_xml(text, bool, bool, text) to public`, "{app}"},
	{"SPG076", `grant execute on function pg_catalog.pg_stat_get_activity(int) to public`, "{app}"},
	{"SPG077", `grant execute on function pg_catalog.lo_get(oid) to public`, "{app}"},
	{"SPG078", `grant usage on language plpgsql to public`, "plpgsql"},
	{"SPG079", ``, "{version}"},                 // another version is substituted
	{"SPG080", ``, "max_prepared_transactions"}, // the server is started with them
	{"SPG081", `create table shardedpg.ctx_key (kid int primary key); grant select on shardedpg.ctx_key to {app}`, "shardedpg.ctx_key"},
	{"SPG082", `create function shardedpg.current_tenant() returns text language sql immutable as 'select null::text'`, "shardedpg.current_tenant"},
	{"SPG083", `create schema tenant_a; create table tenant_a.inv (id int); create table public.inv (id int); grant usage on schema public to {app};
 grant select on public.inv to {app}`, "public.inv"},
	{"SPG084", `create schema tenant_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx`, "tenant_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
	{"SPG085", `alter table app.t29 owner to postgres`, "app.t29"},
	{"SPG086", `create or replace function shardedpg.current_tenant() returns text language sql immutable as 'select null::text';
 alter policy shardedpg_guard on app.t30 using (tenant_id = (select shardedpg.current_tenant())) with check (tenant_id = (select shardedpg.current_tenant()))`, "app.t31"},
	{"SPG087", `create table if not exists shardedpg.ctx_key (kid int primary key)`, "shardedpg.ctx_key"},
}
