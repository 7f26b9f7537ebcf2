-- Version 3: how many statements of a tenant may come at once. Drivers of version 2 do not read it.
alter table {s}.plans
    add burst integer not null default 0 check (burst >= 0); -- 0: those of two seconds of the rate
