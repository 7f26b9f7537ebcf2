-- Version 2: what operators need. Existing rows keep their meaning; drivers of version 1 do not read it.
alter table {s}.shards
    add region      text    not null default '',
    add labels      jsonb   not null default '{}',
    add max_tenants integer not null default 500 check (max_tenants >= 1),
    add max_bytes   bigint  not null default 0 check (max_bytes >= 0), -- 0: size does not matter
    add state       text    not null default 'open' check (state in ('open', 'full', 'draining'));

alter table {s}.tenants
    add slug           text  not null default '',
    add labels         jsonb not null default '{}',
    add override       jsonb,       -- limits on top of the plan
    add override_until timestamptz, -- infinity: for good
    add removed_at     timestamptz, -- taken out of the answers; the rows are still on the shard
    add constraint tenants_override check ((override is null) = (override_until is null));

create unique index tenants_slug on {s}.tenants (slug) where slug <> '';
create index tenants_labels on {s}.tenants using gin (labels jsonb_path_ops);
-- Pages of tenants are read in the order of IDs.
drop index {s}.tenants_shard;
drop index {s}.tenants_plan;
create index tenants_shard_id on {s}.tenants (shard, id);
create index tenants_plan_id on {s}.tenants (plan, id);
create index tenants_state_id on {s}.tenants (state, id) where state <> 'active';

-- Tenants whose data were destroyed. Their IDs stay taken: backups and logs go on naming them.
create table {s}.graves (
    id        text        collate "C" primary key,
    shard     text        not null,
    rows      jsonb       not null default '{}', -- destroyed, by table
    buried_at timestamptz not null default now()
);

alter table {s}.audit_log rename column detail to after;
alter table {s}.audit_log
    alter column actor drop default,
    alter column after drop not null,
    add login  text not null default session_user, -- which the actor cannot choose
    add kind   text not null default '',
    add before jsonb,
    add note   text not null default '';
-- Entries of version 1 were written by their login, and their actions name the kind.
update {s}.audit_log set login = actor,
       kind = case action when 'put_shard' then 'shard' when 'put_plan' then 'plan' else 'tenant' end;
drop index {s}.audit_log_subject;
create index audit_log_subject on {s}.audit_log (kind, subject, id);
create index audit_log_actor on {s}.audit_log (actor, id);
