-- One table for many tenants. Row-level security shows each of them its own rows and takes only its own rows; the driver
-- says in every transaction whose they are. The table belongs to a role that nobody can log in as: FORCE keeps even the
-- owner to the policies, and the login of the application owns nothing that it could switch off.
create table orders (
    tenant_id  text        not null default nullif(current_setting('app.current_tenant_id', true), ''),
    id         bigint      generated always as identity,
    item       text        not null,
    quantity   integer     not null check (quantity > 0),
    created_at timestamptz not null default now(),
    primary key (tenant_id, id)
);
alter table orders owner to orders_owner;
alter table orders enable row level security;
alter table orders force row level security;

create policy tenant_rows on orders as permissive
    using      (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
    with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
-- Permissive policies are joined by OR: one that somebody adds later could open the table. A restrictive one holds.
create policy tenant_only on orders as restrictive
    using      (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
    with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));

grant select, insert, update, delete on orders to app;
