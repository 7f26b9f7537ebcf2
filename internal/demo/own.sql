-- The table of a tenant that has a schema or a database to itself: no tenant column, no policies.
create table orders (
    id         bigint      primary key generated always as identity,
    item       text        not null,
    quantity   integer     not null check (quantity > 0),
    created_at timestamptz not null default now()
);
alter table orders owner to orders_owner;
