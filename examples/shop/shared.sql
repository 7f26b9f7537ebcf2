-- Run once in each database that holds shared tenants. The tables have the rows of all of them; row-level security shows
-- each tenant its own and takes only its own. The driver says in every transaction whose turn it is.
revoke create on schema public from public; -- the default from PostgreSQL 15 on

-- The tenant column fills itself, so the program's models and statements need not know that it is there.
create table customers (
    tenant_id  text   not null default nullif(current_setting('app.current_tenant_id', true), ''),
    id         bigint generated always as identity,
    name       text   not null,
    primary key (tenant_id, id),
    unique (tenant_id, name) -- keys begin with the tenant: otherwise one tenant's names would block another's
);

create table orders (
    tenant_id   text    not null default nullif(current_setting('app.current_tenant_id', true), ''),
    id          bigint  generated always as identity,
    customer_id bigint  not null,
    item        text    not null,
    quantity    integer not null check (quantity > 0),
    primary key (tenant_id, id),
    foreign key (tenant_id, customer_id) references customers
);

do $$
declare name text;
begin
    foreach name in array array['customers', 'orders'] loop
        execute format('alter table %I owner to shop_owner', name);
        execute format('grant select, insert, update, delete on %I to app', name);
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        -- Permissive policies are joined by OR, so one that somebody adds later could open the table. The same condition
        -- as a restrictive policy holds.
        execute format($policy$create policy tenant_rows on %I as permissive
            using      (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
            with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))$policy$, name);
        execute format($policy$create policy tenant_only on %I as restrictive
            using      (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
            with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))$policy$, name);
    end loop;
end $$;
