package waiverfile_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/rls/audit"
	"github.com/sharded-pg/sharded-pg/rls/audit/waiverfile"
)

func TestWaiversAreRead(t *testing.T) {
	t.Parallel()
	got, err := waiverfile.Read(strings.NewReader(`
waivers:
  - {rule: SPG040, object: app.*_key, shard: eu1, reason: one login for all tenants, expires: 2027-03-31}
  - rule: SPG072
    reason: the driver sets the tenant with it
    expires: 2027-12-31
`))
	require.NoError(t, err)
	require.Equal(t, []audit.Waiver{
		{Rule: "SPG040", Object: "app.*_key", Shard: "eu1", Reason: "one login for all tenants", Expires: time.Date(2027, 3, 31, 0, 0, 0, 0, time.UTC)},
		{Rule: "SPG072", Reason: "the driver sets the tenant with it", Expires: time.Date(2027, 12, 31, 0, 0, 0, 0, time.UTC)},
	}, got)
	got, err = waiverfile.Read(strings.NewReader(""))
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestAWaiverSaysWhyAndUntilWhen(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"waivers: [{rule: SPG040, expires: 2027-03-31}]":                         "waiver 1 (SPG040): no reason",
		"waivers: [{rule: SPG040, reason: x}]":                                   "no expiry",
		"waivers: [{rule: SPG999, reason: x, expires: 2027-03-31}]":              `there is no rule "SPG999"`,
		"waivers: [{rule: SPG040, reason: x, expires: never}]":                   `"never" is no day: write one like 2027-03-31`,
		"waivers: [{rule: SPG040, reson: x, expires: 2027-03-31}]":               "line 1: field reson not found",
		"waivers: [{rule: SPG040, object: '[', reason: x, expires: 2027-03-31}]": "is no pattern",
	} {
		_, err := waiverfile.Read(strings.NewReader(text))
		require.ErrorContains(t, err, says)
	}
}
