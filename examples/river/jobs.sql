alter table river_job enable row level security;
drop policy if exists tenant_jobs on river_job;
create policy tenant_jobs on river_job to app
    using      (args ->> 'tenant' = (select nullif(current_setting('app.current_tenant_id', true), '')))
    with check (args ->> 'tenant' = (select nullif(current_setting('app.current_tenant_id', true), '')));
grant select, insert on river_job to app;
-- An insert for a unique job that is there already is an update of this column to what it was.
grant update (kind) on river_job to app;
grant usage on sequence river_job_id_seq to app;
