package shardedpg_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
)

// driverInterfaces are all interfaces of database/sql/driver.
var driverInterfaces = map[string]reflect.Type{
	"ColumnConverter":                reflect.TypeFor[driver.ColumnConverter](), //nolint:staticcheck // deprecated ones count, too
	"Conn":                           reflect.TypeFor[driver.Conn](),
	"ConnBeginTx":                    reflect.TypeFor[driver.ConnBeginTx](),
	"ConnPrepareContext":             reflect.TypeFor[driver.ConnPrepareContext](),
	"Connector":                      reflect.TypeFor[driver.Connector](),
	"Driver":                         reflect.TypeFor[driver.Driver](),
	"DriverContext":                  reflect.TypeFor[driver.DriverContext](),
	"Execer":                         reflect.TypeFor[driver.Execer](), //nolint:staticcheck // deprecated ones count, too
	"ExecerContext":                  reflect.TypeFor[driver.ExecerContext](),
	"NamedValueChecker":              reflect.TypeFor[driver.NamedValueChecker](),
	"Pinger":                         reflect.TypeFor[driver.Pinger](),
	"Queryer":                        reflect.TypeFor[driver.Queryer](), //nolint:staticcheck // deprecated ones count, too
	"QueryerContext":                 reflect.TypeFor[driver.QueryerContext](),
	"Result":                         reflect.TypeFor[driver.Result](),
	"Rows":                           reflect.TypeFor[driver.Rows](),
	"RowsColumnTypeDatabaseTypeName": reflect.TypeFor[driver.RowsColumnTypeDatabaseTypeName](),
	"RowsColumnTypeLength":           reflect.TypeFor[driver.RowsColumnTypeLength](),
	"RowsColumnTypeNullable":         reflect.TypeFor[driver.RowsColumnTypeNullable](),
	"RowsColumnTypePrecisionScale":   reflect.TypeFor[driver.RowsColumnTypePrecisionScale](),
	"RowsColumnTypeScanType":         reflect.TypeFor[driver.RowsColumnTypeScanType](),
	"RowsNextResultSet":              reflect.TypeFor[driver.RowsNextResultSet](),
	"SessionResetter":                reflect.TypeFor[driver.SessionResetter](),
	"Stmt":                           reflect.TypeFor[driver.Stmt](),
	"StmtExecContext":                reflect.TypeFor[driver.StmtExecContext](),
	"StmtQueryContext":               reflect.TypeFor[driver.StmtQueryContext](),
	"Tx":                             reflect.TypeFor[driver.Tx](),
	"Validator":                      reflect.TypeFor[driver.Validator](),
	"ValueConverter":                 reflect.TypeFor[driver.ValueConverter](),
	"Valuer":                         reflect.TypeFor[driver.Valuer](),
	"io.Closer":                      reflect.TypeFor[io.Closer](),
	"Conn() *pgx.Conn":               reflect.TypeFor[interface{ Conn() *pgx.Conn }](),
}

// laterInterfaces came after the oldest Go release that this module supports. They concern rows only, and ours are pgx's
// own.
var laterInterfaces = map[string]bool{"RowsColumnScanner": true, "ScanContext": true}

func TestTheListOfDriverInterfacesIsComplete(t *testing.T) {
	t.Parallel()
	pkg, err := build.Import("database/sql/driver", "", 0)
	require.NoError(t, err)
	require.NotEmpty(t, pkg.GoFiles)
	for _, name := range pkg.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, name), nil, 0)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				spec := spec.(*ast.TypeSpec)
				if _, ok := spec.Type.(*ast.InterfaceType); ok && ast.IsExported(spec.Name.Name) && !laterInterfaces[spec.Name.Name] {
					require.Contains(t, driverInterfaces, spec.Name.Name, "Go has a new interface: add it to driverInterfaces")
				}
			}
		}
	}
}

func TestOurTypesImplementWhatThoseOfPgxDo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	made := func(c driver.Connector, ctx context.Context) map[string]reflect.Type {
		conn, err := c.Connect(ctx)
		require.NoError(t, err)
		stmt, err := conn.(driver.ConnPrepareContext).PrepareContext(ctx, "select 1")
		require.NoError(t, err)
		tx, err := conn.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{})
		require.NoError(t, err)
		result, err := conn.(driver.ExecerContext).ExecContext(ctx, "select 1", nil)
		require.NoError(t, err)
		rows, err := conn.(driver.QueryerContext).QueryContext(ctx, "select 1", nil)
		require.NoError(t, err)
		prepared, err := func() (driver.Rows, error) {
			require.NoError(t, rows.Close())
			return stmt.(driver.StmtQueryContext).QueryContext(ctx, nil)
		}()
		require.NoError(t, err)
		require.NoError(t, prepared.Close())
		require.NoError(t, tx.Rollback())
		require.NoError(t, stmt.Close())
		require.NoError(t, conn.Close())
		types := make(map[string]reflect.Type)
		for what, v := range map[string]any{
			"connector": c, "driver": c.Driver(), "conn": conn, "stmt": stmt, "tx": tx, "result": result, "rows": rows, "rows of a stmt": prepared,
		} {
			types[what] = reflect.TypeOf(v)
		}
		return types
	}
	cc, err := pgx.ParseConfig(f.server.DSN("app", f.database))
	require.NoError(t, err)
	theirs := made(stdlib.GetConnector(*cc), f.a)
	ours := made(f.connector, f.a)
	for what, their := range theirs {
		for name, i := range driverInterfaces {
			if their.Implements(i) {
				require.True(t, ours[what].Implements(i), "%s: pgx's %v implements %s, our %v does not", what, their, name, ours[what])
			}
		}
	}
	require.Equal(t, reflect.TypeFor[*stdlib.Rows](), ours["rows"], "rows are pgx's own, whatever they learn to do")
	require.Equal(t, ours["rows"], ours["rows of a stmt"])
	require.Equal(t, theirs["result"], ours["result"])
	for _, must := range []string{"SessionResetter", "Validator", "io.Closer"} {
		require.True(t, ours["conn"].Implements(driverInterfaces[must]), must)
	}
	require.True(t, ours["connector"].Implements(driverInterfaces["io.Closer"]))
	require.True(t, ours["driver"].Implements(driverInterfaces["DriverContext"]))
}

func TestColumnTypesAreThoseOfPgx(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	cc, err := pgx.ParseConfig(f.server.DSN("app", f.database))
	require.NoError(t, err)
	plain := stdlib.OpenDB(*cc)
	defer plain.Close()
	const query = "select 1::int, 'x'::varchar(7), 1.5::numeric(9, 4), now(), array[1, 2], '{}'::jsonb, null::uuid, '\\x00'::bytea"
	describe := func(q *sql.DB) string {
		rows, err := q.QueryContext(f.a, query)
		require.NoError(t, err)
		defer rows.Close()
		types, err := rows.ColumnTypes()
		require.NoError(t, err)
		var b strings.Builder
		for _, c := range types {
			length, hasLength := c.Length()
			precision, scale, hasScale := c.DecimalSize()
			fmt.Fprintln(&b, c.Name(), c.DatabaseTypeName(), c.ScanType(), length, hasLength, precision, scale, hasScale)
		}
		require.NoError(t, rows.Err())
		return b.String()
	}
	require.Equal(t, describe(plain), describe(f.db))
}

func TestArgumentsOfPgxTypesPassThrough(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	require.Equal(t, 3, value[int](t, f.a, f.db, "select cardinality($1::int[])", []int{1, 2, 3}))
	require.Equal(t, "v", value[string](t, f.a, f.db, "select $1::jsonb ->> 'k'", map[string]string{"k": "v"}))
	require.Equal(t, "18446744073709551615", value[string](t, f.a, f.db, "select $1::numeric::text", uint64(1<<64-1)))
	require.Equal(t, "x", value[string](t, f.a, f.db, "select @name::text", pgx.NamedArgs{"name": "x"}))
	require.Equal(t, "x", value[string](t, f.a, f.db, "select $1::text", pgx.QueryExecModeSimpleProtocol, "x"))
	_, err := f.db.ExecContext(f.a, "select $1::int", 1, 2)
	require.Error(t, err)
	require.NotErrorIs(t, err, driver.ErrBadConn)
	f.requireOwnRows()
}
