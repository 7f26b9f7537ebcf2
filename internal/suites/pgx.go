package main

import "github.com/sharded-pg/sharded-pg/internal/suites/adapter"

var both = []string{adapter.Through, adapter.Chaos}

// importAdapter adds the adapter's import to a file whose imports are in parentheses.
func importAdapter(file string) patch {
	return patch{file, "import (\n", "import (\n\t\"" + adapterPath + "\"\n", 1}
}

const (
	hooks = "it is about a hook of pgx's own connector, which is not there; Config.ConfigureConn is ours"
	noIO  = "it expects the names of server-side statements of this *sql.Stmt; ours holds a text, and the statements are in " +
		"the cache of the server connection that runs it"
)

var pgx = suite{
	Name: "pgx", Module: "github.com/jackc/pgx/v5", Version: "v5.12.0",
	About: "the tests of its database/sql layer. Temporary tables that a test makes through *sql.DB, and expects at its next call, " +
		"are ordinary ones here: what a statement leaves on a server connection ends with its checkout.",
	Packages: []string{"./stdlib"},
	Env:      map[string]string{"PGX_TEST_DATABASE": "${URL}"},
	Patches: []patch{
		importAdapter("stdlib/sql_test.go"),
		{"stdlib/sql_test.go", "stdlib.OpenDB(", "adapter.OpenDB(", 4},
		{"stdlib/sql_test.go", `sql.Open("pgx", `, "sql.Open(adapter.Name, ", 3},
		{"stdlib/sql_test.go", `{driverName: "pgx"}`, "{driverName: adapter.Name}", 1},
		{"stdlib/sql_test.go", "driverConn.(*stdlib.Conn)", "driverConn.(interface{ Conn() *pgx.Conn })", 5},
		{"stdlib/sql_test.go", `db.Exec("create temporary table t(`, `db.Exec("drop table if exists t; create table t(`, 4},
		{"stdlib/sql_test.go", `db.Exec("create table t (`, `db.Exec("drop table if exists t; create table t (`, 1},
		{"stdlib/sql_test.go", "create temporary table docs(", "drop table if exists docs; create table docs(", 2},
		{"stdlib/sql_test.go", "create temporary table defer_test (", "drop table if exists defer_test; create table defer_test (", 1},
		{
			"stdlib/sql_test.go", "CREATE TEMPORARY TABLE temp_column_type_length (",
			"drop table if exists temp_column_type_length; create table temp_column_type_length (", 1,
		},
		{"stdlib/sql_go1.27_test.go", `"github.com/jackc/pgx/v5/stdlib"`, `"` + adapterPath + `"`, 1},
		{"stdlib/sql_go1.27_test.go", "stdlib.OpenDB(", "adapter.OpenDB(", 1},
	},
	Differs: []difference{
		{"TestCheckIdleConn", both, "it expects the number of open server connections in DB.Stats; database/sql counts " +
			"virtual connections, and those do not die with a server connection"},
		{"TestConnMultiplePrepareAndDeallocate", both, noIO},
		{"TestOptionBeforeAfterConnect", both, hooks},
		{"TestOptionShouldPing_HookCalledOnReuse", both, hooks},
		{"TestResetSessionHookCalled", both, hooks},
		{"TestRegisterConnConfig", both, "it opens a configuration by the name under which pgx registered it, and pgx tells " +
			"nobody else what a name stands for; Config.ConfigureConn is ours"},
	},
}
