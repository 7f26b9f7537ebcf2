// Package hammer tries to make the driver mix tenants up. Many goroutines do random work for random tenants over few
// connections, leave behind whatever SQL can leave behind, and have their connections cancelled, killed and cut; each row
// that comes back names the tenant it belongs to, and each write is in a ledger that is compared with the tables at the
// end.
//
// What it finds has a kind. ISOLATION: a statement met rows, or anything else, of another tenant, or ran without its
// tenant. LEDGER: a write was lost, doubled, or survived its rollback. HANG, SLOT, LIMIT, LEAK: something was not given
// back. ERROR: an error that nothing the hammer does explains. The first finding ends the run.
//
// Every tenant t has a ghost, a tenant of its own that nobody works for. What t leaves behind on a connection names that
// ghost, so a trace tells who left it. To see one's own ghost is allowed where one's own leavings may show: below a table
// that was named without its schema, in a statement that was forged, and past a COMMIT inside a string. To see any other
// tenant is a finding everywhere.
package hammer
