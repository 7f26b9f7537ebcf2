package registry_test

import (
	"context"
	"fmt"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// A fleet can be written down in Go: two tenants share a database, a third has a schema on another shard.
func ExampleNewStatic() {
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{
			{Name: "eu1", DSN: "postgres://app@eu1.internal/app"},
			{Name: "us1", DSN: "postgres://app@us1.internal/app"},
		},
		Tenants: []registry.Tenant{
			{ID: "acme", Shard: "eu1", Plan: "growth"},
			{ID: "beta", Shard: "eu1"},
			{ID: "gamma", Shard: "us1", Model: resolver.ModelSchema, Plan: "starter"},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	cache := resolver.NewCache(store, resolver.CacheConfig{})
	defer cache.Close()
	for _, tenant := range []string{"acme", "beta", "gamma", "delta"} {
		route, err := cache.Resolve(context.Background(), tenant)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("%s: %v, model %s, schema %q, plan %s\n", tenant, route.Shard, route.Model, route.Schema, route.Plan.Name)
	}
	// Output:
	// acme: shard eu1, model shared, schema "", plan growth
	// beta: shard eu1, model shared, schema "", plan free
	// gamma: shard us1, model schema, schema "tenant_gamma", plan starter
	// tenant not found: "delta"
}
