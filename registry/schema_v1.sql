-- Version 1 of the registry. {s} is the quoted schema. Later versions are further files; this one never changes.
create table {s}.shards (
    name       text        primary key,
    dsn        text        not null, -- may hold ${ENV} references
    admin_dsn  text        not null default '',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table {s}.plans (
    name                 text             primary key,
    statement_timeout_ms bigint           check (statement_timeout_ms between 1 and 2147483647), -- null: no limit
    work_mem_kb          integer          not null check (work_mem_kb >= 64),
    max_conns            integer          not null check (max_conns >= 1),
    weight               integer          not null check (weight >= 1),
    rate                 double precision not null default 0 check (rate >= 0 and rate < 'Infinity'),
    created_at           timestamptz      not null default now(),
    updated_at           timestamptz      not null default now()
);

create table {s}.tenants (
    id             text        collate "C" primary key,
    shard          text        not null references {s}.shards,
    database       text        not null default '', -- '': the one that the shard's DSN names
    model          text        not null check (model in ('shared', 'partition', 'schema', 'database')),
    schema         text        not null default '',
    role           text        not null default '',
    plan           text        not null references {s}.plans,
    state          text        not null
        check (state in ('provisioning', 'active', 'readonly', 'disabled', 'moving', 'deleting')),
    assignment     text        not null default 'explicit', -- how the shard was chosen
    epoch          bigint      not null default 1,          -- grows with each change of placement
    schema_version text        not null default '',         -- what migrations brought the tenant to
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    constraint tenants_schema_model check ((model = 'schema') = (schema <> '' and role <> ''))
);

create index tenants_shard on {s}.tenants (shard);
create index tenants_plan on {s}.tenants (plan);
-- No two tenants share a schema. Roles belong to the server, so they are unique across its databases.
create unique index tenants_schema on {s}.tenants (shard, database, schema) where schema <> '';
create unique index tenants_role on {s}.tenants (shard, role) where role <> '';

create table {s}.audit_log (
    id      bigint      generated always as identity primary key,
    at      timestamptz not null default clock_timestamp(),
    actor   text        not null default session_user,
    action  text        not null, -- put_shard, put_plan, put_tenant, set_state
    subject text        not null, -- name of the shard or plan, ID of the tenant
    detail  jsonb       not null  -- what the row became, without DSNs
);

create index audit_log_subject on {s}.audit_log (subject, id);
