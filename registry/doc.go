// Package registry keeps what must be known about a fleet: its shards, its plans and where each tenant lives.
//
// [Postgres] keeps it in tables of a PostgreSQL database, [Memory] in the program, and [Static] is a fleet written down in
// Go or, with package fleetfile, in YAML. Each is a [Store], which is what the driver reads, and has an [Admin], which is
// what operators and their programs change it with. A Store is the [resolver.Source] behind a [resolver.Cache]:
//
//	store, err := registry.Open(dsn, nil)
//	cache := resolver.NewCache(store, resolver.CacheConfig{})
//	go store.Watch(ctx, registry.Handler{Tenant: cache.Invalidate, Flush: cache.Flush})
//
// Below it are packages that the driver does not link: provision makes and destroys what a tenant has on its shard, health
// looks at shards, fleetfile reads and writes YAML, singleserver is a registry for development.
//
// # Adding a tenant
//
//	tenant, err := store.AddTenant(ctx, registry.Tenant{ID: "acme", Model: resolver.ModelSchema}, nil) // chooses a shard
//	err = provision.Tenant(ctx, store.Admin, "acme", nil)                                              // and makes it active
//
// Shards are chosen under an advisory lock of the registry, one tenant at a time, so that no shard gets more than its
// MaxTenants however many programs add tenants. The lock is held for rows only: sizes are measured before, and schemas
// are made after. A stored tenant stays where it is whatever a [Strategy] would say today.
//
// # Secrets
//
// The DSN of a shard may refer to environment variables as ${NAME}. They are expanded by the program that uses the
// shard, each time the DSN is handed out, so that the registry need not hold passwords. A value is put in as it is: in a
// URL it must already be percent-encoded, and elsewhere its blanks, quotes and backslashes have a backslash in front. DSNs
// appear in no error, no log line, no JSON and no audit record.
//
// # States of a tenant
//
//	provisioning --> active <--> readonly | disabled | moving (which reach each other, too)
//	      |             |            |
//	      +-------------+------------+--> deleting
//
// deleting is final. Lookup returns routes in each state; only active and readonly tenants may run statements. Beside its
// state, a tenant can be removed: lookups do not find it until it is restored, and its ID stays taken. After a purge the
// ID stays taken for good.
//
// # Changes
//
// A change, its record in the audit log and the notification of running drivers are one transaction. Two changes of one
// row wait for each other; changes of shards and plans, and assignments, wait for each other, too. So a registry that is
// killed at any moment holds each change whole or not at all.
package registry
