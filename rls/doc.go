// Package rls holds what puts a tenant in force on a PostgreSQL connection: the text of the prologue, the one statement
// that flies in front of the caller's, and the values that a route and a deadline give it.
//
// Every setting is transaction-local (PostgreSQL manual, section 9.28.1: set_config with is_local true), so nothing of
// it is left when the transaction ends. The texts are a handful of constants: pg_stat_statements shows a handful of
// rows, whatever the number of tenants.
package rls
