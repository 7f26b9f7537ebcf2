package registrytest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// previewing compares each preview with what AddTenant then does.
func previewing(t *testing.T, h Harness) {
	for _, where := range []*registry.Assignment{nil, {Strategy: registry.Smallest{}}, {Region: "eu"}, {Region: "mars"}} {
		f := plain("a", "b", "c", "d")
		f.Shards[0].MaxTenants, f.Shards[1].MaxTenants = 3, 8
		f.Shards[0].Region, f.Shards[1].Region = "eu", "eu"
		f.Shards[3].State = registry.ShardFull
		store, ctx := h.New(t, f), t.Context()
		for _, id := range []string{"there", "removed", "purged"} {
			require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: id, Shard: "a", Slug: id + "-slug"}))
		}
		require.NoError(t, store.RemoveTenant(ctx, "removed"))
		require.NoError(t, store.RemoveTenant(ctx, "purged"))
		require.NoError(t, store.BeginPurge(ctx, "purged", "purged"))
		require.NoError(t, store.BuryTenant(ctx, "purged", nil))
		before, err := store.Audit(ctx, registry.AuditFilter{})
		require.NoError(t, err)

		tenants := []registry.Tenant{
			{ID: "there"},
			{ID: "removed"},
			{ID: "purged"},
			{ID: "not one"},
			{ID: "nul\x00"},
			{ID: "planless", Plan: "gold"},
			{ID: "not/a/schema", Model: resolver.ModelSchema},
			{ID: "slugged", Slug: "there-slug"},
			{ID: "first", Slug: "new-slug"},
			{ID: "second", Slug: "new-slug"},
			{ID: "own", Model: resolver.ModelDatabase, Plan: "growth"},
			{ID: "chosen", Shard: "c"},
			{ID: "nowhere", Shard: "nowhere"},
			{ID: "closed", Shard: "d"},
		}
		for i := range 20 {
			tenants = append(tenants, registry.Tenant{ID: fmt.Sprintf("t%d", i)})
		}
		tenants = append(tenants, registry.Tenant{ID: "t7"})
		previews, err := store.PreviewTenants(ctx, tenants, where)
		require.NoError(t, err)
		require.Len(t, previews, len(tenants))
		after, err := store.Audit(ctx, registry.AuditFilter{})
		require.NoError(t, err)
		require.Equal(t, before, after)
		require.ErrorIs(t, errOf(store.Tenant(ctx, "t1")), resolver.ErrTenantNotFound)

		for i, tenant := range tenants {
			got, err := store.AddTenant(ctx, tenant, where)
			p := previews[i]
			if err != nil {
				require.Error(t, p.Err, "%s: %v", tenant.ID, err)
				require.Equal(t, plainText(err), plainText(p.Err), tenant.ID)
				require.Equal(t, errors.Is(err, registry.ErrExists) && tenant.ID != "purged", p.Tenant.ID != "" && errors.Is(p.Err, registry.ErrExists), tenant.ID)
				continue
			}
			require.NoError(t, p.Err, tenant.ID)
			got.Created, got.Updated = p.Tenant.Created, p.Tenant.Updated
			require.Equal(t, got, p.Tenant)
		}
	}
}

// plainText is what both say, whoever they say it of.
func plainText(err error) string {
	text := err.Error()
	if _, rest, found := strings.Cut(text, ": "); found && strings.HasPrefix(text, "adding tenant") {
		return rest
	}
	return text
}

func errOf(_ registry.TenantInfo, err error) error { return err }
