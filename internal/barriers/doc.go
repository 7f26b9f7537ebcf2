// Package barriers takes away, one at a time, what stands between two tenants, and shows what the rest still holds.
//
// The policies are taken away by SQL. The driver's own barriers are taken away by mutants: the test compiles itself once more
// with a driver that lacks one, and runs there. docs/threat-model.md has the result as a table; each of its cells is one
// subtest, and the test fails when the two differ.
package barriers
