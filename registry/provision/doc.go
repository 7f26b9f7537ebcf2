// Package provision makes on a shard what a tenant's isolation model needs there, and destroys it again.
//
// A tenant is added to the registry in the state provisioning, in which it runs no statements. [Tenant] then makes its
// schema, role, partitions or database, looks into the catalog whether all of it is there, and only then makes the tenant
// active:
//
//	added: provisioning --> made on the shard --> seen in the catalog --> active
//	            ^                   |                     |
//	            +--- crash, error --+---------------------+    Tenant again completes it
//
// What is made depends on the model:
//
//	shared      nothing: the tables must be there, with forced row-level security, policies and grants
//	partition   a partition for the tenant of each table partitioned by LIST of the tenant column, with the policies,
//	            the owner and the grants of its table on the partition itself, but for those of the login
//	schema      a role without login, a schema, and in it the tables of the template schema
//	database    a database, copied from the template database
//
// Each step may be run again. All steps but one are one transaction, so a crash leaves nothing half-made; CREATE DATABASE
// cannot be in a transaction, so a database is marked with a comment once all is in it. Locks of the registry are never
// held meanwhile: two provisioners of one tenant wait for each other on the shard.
//
// The tables come from the catalog of the shard and never from the program that provisions, which may know an older
// schema.
//
// [Check] looks for what all of that starts from, before a tenant is added.
//
// [Purge] destroys a tenant's rows, partitions, schema or database, in steps that may be repeated after a crash.
//
// All use the shard's admin DSN. It has to reach the server itself, because locks of a session do not work through a
// pooler in transaction mode.
package provision
