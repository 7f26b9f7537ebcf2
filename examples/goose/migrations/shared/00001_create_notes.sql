-- +goose Up
create table notes (
    tenant_id text   not null default nullif(current_setting('app.current_tenant_id', true), ''),
    id        bigint generated always as identity,
    note      text   not null,
    primary key (tenant_id, id)
);
alter table notes owner to shop_owner;
alter table notes enable row level security;
alter table notes force row level security;
create policy tenant_rows on notes as permissive
    using      (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
    with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
create policy tenant_only on notes as restrictive
    using      (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
    with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
grant select, insert, update, delete on notes to app;

-- +goose Down
drop table notes;
