-- Run once on each server, as a superuser or as a role that may create roles.

-- Owns the tables. Nobody can log in as it.
create role shop_owner nologin;

-- What the program logs in as. It owns nothing, so it cannot switch row-level security off. NOINHERIT, because it is a
-- member of each schema tenant's role, to become one of them for a transaction, and must not have all their rights in
-- between.
create role app login noinherit;
