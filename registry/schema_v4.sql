-- Version 4: throttles. Drivers of version 3 do not read it: to them a throttle is an override, after which the plan holds.
alter table {s}.tenants
    add under_throttle jsonb; -- not null: override is a throttle, and this is the override under it; {}: there is none
