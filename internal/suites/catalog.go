package main

// suites are all, in the order of the table.
var suites = []suite{pgx, sqlx, goose, gorm, river, xorm, goqu, dbr}

// absences are the suites that one would look for in the table. A nested module of tests is a module of its own to the
// proxy, and is left out of the zip of the module around it.
var absences = []absence{
	{"GORM's own tests", "a module of their own, `gorm.io/gorm/tests`, of which the module proxy lists no version; " +
		"`go mod download` finds none at `@latest`, `@master` and `@v1.31.2`. Those of its data types stand for them."},
	{"ent", "`entgo.io/ent/entc/integration` is a module of its own: no version listed, none at `@latest` and `@master`, and " +
		"the zips of `entgo.io/ent` v0.13.1 and v0.14.5 do not hold it. What is left in them needs no server."},
	{"bun", "`github.com/uptrace/bun/internal/dbtest` is a module of its own: no version listed, none at `@latest` and " +
		"`@v1.3.0`. What is left in `github.com/uptrace/bun` v1.1.12 and v1.3.0 needs no server."},
	{"River's tests of all drivers", "`github.com/riverqueue/river/riverdriver/riverdrivertest` is a module of its own: no " +
		"version listed, none at `@latest` and `@v0.51.1`. The tests of its client use pgx without database/sql."},
	{"goose from v3.20.0 on", "the tests on PostgreSQL are no longer in the module."},
}
