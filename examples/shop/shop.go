// Package shop holds the tables that all recipes work on, as the SQL files that create them: customers and their orders.
//
// A recipe's models and statements are the same for a tenant that shares these tables with others and for one that has a
// schema or a database of its own.
package shop

import _ "embed"

var (
	// RolesSQL creates the roles, once on each server.
	//go:embed roles.sql
	RolesSQL string
	// SharedSQL creates the tables of shared tenants, with their policies.
	//go:embed shared.sql
	SharedSQL string
)
