package main

// noCgo makes the SQLite driver that some suites import compile to nothing.
const noCgo = "0"

const changedTable = "a cached statement meets a table that was made anew (0A000); the driver runs it again, plain pgx leaves " +
	"that to the caller"

var sqlx = suite{
	Name: "sqlx", Module: "github.com/jmoiron/sqlx", Version: "v1.4.0",
	About:    "all of its tests, with PostgreSQL only.",
	Packages: []string{"."},
	Env: map[string]string{
		"SQLX_POSTGRES_DSN": "${URL}", "SQLX_MYSQL_DSN": "skip", "SQLX_SQLITE_DSN": "skip", "CGO_ENABLED": noCgo,
	},
	Patches: []patch{
		importAdapter("sqlx_test.go"),
		{"sqlx_test.go", `pgdb, err = Connect("postgres", pgdsn)`, `pgdb = NewDb(adapter.Open(pgdsn), "pgx")`, 1},
	},
	Differs: []difference{{"TestUsage", both, changedTable}, {"TestUsageContext", both, changedTable}},
}

var goose = suite{
	Name: "goose", Module: "github.com/pressly/goose/v3", Version: "v3.19.2",
	About: "its tests on PostgreSQL: migrations up and down, session locks, the version table. The last version that ships " +
		"them in its module; a database of its own stands for each container.",
	Packages: []string{".", "./database", "./lock", "./tests/e2e"},
	Run:      "^(TestLockModeAdvisorySession|TestPostgresSessionLocker|TestDialectStore|TestNo.*|TestAllowMissing.*|TestMigrate.*|TestWithWithoutAllowMissing)$",
	Env:      map[string]string{"CGO_ENABLED": noCgo},
	Patches: []patch{
		importAdapter("internal/testdb/postgres.go"),
		{
			"internal/testdb/postgres.go", "option := &options{}\n",
			"if true {\n\t\tdb, err := adapter.Fresh()\n\t\treturn db, func() {}, err\n\t}\n\toption := &options{}\n", 1,
		},
	},
}

var gorm = suite{
	Name: "GORM", Module: "gorm.io/datatypes", Version: "v1.2.7",
	About: "the tests of its data types, on GORM v1.31.2 and its PostgreSQL dialect v1.6.3, whose own module has none that " +
		"need a server. The *sql.DB is handed over.",
	Require:  []string{"gorm.io/gorm@v1.31.2", "gorm.io/driver/postgres@v1.6.3"},
	Packages: []string{"."},
	Env:      map[string]string{"GORM_DIALECT": "postgres", "GORM_DSN": "${URL}"},
	Patches: []patch{
		importAdapter("main_test.go"),
		{"main_test.go", "postgres.Open(dbDSN)", "postgres.New(postgres.Config{Conn: adapter.Open(dbDSN)})", 1},
	},
}

var river = suite{
	Name: "River", Module: "github.com/riverqueue/river/riverdriver/riverdatabasesql", Version: "v0.51.1",
	About:    "its database/sql driver: a client that works jobs, migrations, examples.",
	Packages: []string{"."},
	Env:      map[string]string{"TEST_DATABASE_URL": "${URL}"},
	Patches: []patch{
		importAdapter("river_database_sql_driver_test.go"),
		{"river_database_sql_driver_test.go", `sql.Open("pgx", `, "sql.Open(adapter.Name, ", 1},
		importAdapter("example_migrate_database_sql_test.go"),
		{"example_migrate_database_sql_test.go", `sql.Open("pgx", `, "sql.Open(adapter.Name, ", 1},
		importAdapter("example_client_from_context_database_sql_test.go"),
		{"example_client_from_context_database_sql_test.go", `sql.Open("pgx", `, "sql.Open(adapter.Name, ", 1},
	},
}

var xorm = suite{
	Name: "xorm", Module: "xorm.io/xorm", Version: "v1.4.3",
	About:    "all of its tests on a database, with the dialect pgx.",
	Packages: []string{"./tests"},
	Args:     []string{"-db=pgx", "-conn_str=${URL}", "-show_sql=false"},
	Env:      map[string]string{"CGO_ENABLED": noCgo},
	Patches: []patch{
		{"go.mod", "\tgitee.com/travelliu/dm v1.8.11192\n", "", 1}, // a driver that the module proxy does not have
		{"tests/engine_test.go", "\t_ \"gitee.com/travelliu/dm\"\n", "", 1},
		importAdapter("core/db.go"),
		{"core/db.go", "sql.Open(driverName, dataSourceName)", "sql.Open(adapter.Name, dataSourceName)", 1},
	},
}

var goqu = suite{
	Name: "goqu", Module: "github.com/doug-martin/goqu/v9", Version: "v9.19.0",
	About:    "its tests on PostgreSQL, and the examples, which run on it too.",
	Packages: []string{".", "./dialect/postgres"},
	Env:      map[string]string{"PG_URI": "${URL}"},
	Patches: []patch{
		importAdapter("dialect/postgres/postgres_test.go"),
		{"dialect/postgres/postgres_test.go", `sql.Open("postgres", `, "sql.Open(adapter.Name, ", 1},
		importAdapter("select_dataset_example_test.go"),
		{"select_dataset_example_test.go", `goSQL.Open("postgres", `, "goSQL.Open(adapter.Name, ", 1},
	},
}

var dbr = suite{
	Name: "dbr", Module: "github.com/gocraft/dbr/v2", Version: "v2.7.6",
	About:    "its tests, with the PostgreSQL dialect in place of the other three, too.",
	Packages: []string{"."},
	Skip:     "^Example",
	Env:      map[string]string{"DBR_TEST_POSTGRES_DSN": "${URL}", "CGO_ENABLED": noCgo},
	Patches: []patch{
		importAdapter("dbr.go"),
		{"dbr.go", "sql.Open(driver, dsn)", "sql.Open(adapter.Name, dsn)", 1},
		{"dbr_test.go", `createSession("mysql", mysqlDSN)`, `createSession("postgres", postgresDSN)`, 2},
		{"dbr_test.go", `createSession("sqlite3", sqlite3DSN)`, `createSession("postgres", postgresDSN)`, 2},
		{"dbr_test.go", `createSession("mssql", mssqlDSN)`, `createSession("postgres", postgresDSN)`, 1},
		{"dbr_test.go", "{mysqlSession, postgresSession, sqlite3Session, mssqlSession}", "{postgresSession}", 1},
	},
}
