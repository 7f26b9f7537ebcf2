// Package registry keeps what the driver must know about a fleet: its shards, its plans and where each tenant lives.
//
// [Postgres] keeps it in tables of a PostgreSQL database; [Static] is a fleet written down in Go. Both are a [Store],
// and a Store is the [resolver.Source] behind a [resolver.Cache]:
//
//	store, err := registry.Open(dsn, nil)
//	cache := resolver.NewCache(store, resolver.CacheConfig{})
//	go store.Watch(ctx, registry.Handler{Tenant: cache.Invalidate, Flush: cache.Flush})
//
// # Secrets
//
// The DSN of a shard may refer to environment variables as ${NAME}. They are expanded by the program that uses the
// shard, each time the DSN is handed out, so that the registry need not hold passwords. A value is put in as it is: in a
// URL, it must already be percent-encoded. DSNs appear in no error, no log line and no audit record.
//
// # States of a tenant
//
//	provisioning --> active <--> readonly | disabled | moving (which reach each other, too)
//	      |             |            |
//	      +-------------+------------+--> deleting
//
// deleting is final. Lookup returns routes in each state; only active and readonly tenants may run statements.
package registry
