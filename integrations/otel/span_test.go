package otelshard_test

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	shardedpg "github.com/sharded-pg/sharded-pg"
	otelshard "github.com/sharded-pg/sharded-pg/integrations/otel"
)

func TestSpanOfAQueryEndsWithItsRows(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	rows, err := p.db.QueryContext(p.as("acme"), "-- all of them\n select i from generate_series(1, $1::int) i", 3)
	require.NoError(t, err)
	for range 2 {
		require.True(t, rows.Next())
	}
	require.Empty(t, p.ended())
	require.NoError(t, rows.Close())

	span := p.last()
	require.Equal(t, "SELECT eu", span.Name())
	require.Equal(t, trace.SpanKindClient, span.SpanKind())
	require.Equal(t, codes.Unset, span.Status().Code)
	said := attributesOf(span.Attributes())
	require.Greater(t, said["sharded_pg.wait"], "0")
	delete(said, "sharded_pg.wait")
	require.Equal(t, map[string]string{
		"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.namespace": "eu", "db.response.returned_rows": "3",
		"sharded_pg.plan": "small",
	}, said)
	require.Len(t, span.Events(), 1)
	require.Equal(t, "connection taken", span.Events()[0].Name)
}

func TestTenantAndTextAreOnSpansOnRequest(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{Tenants: true, Statements: true}, func(c *shardedpg.Config) { c.TenantCase = shardedpg.TenantCaseLower })
	_, err := p.db.ExecContext(p.as("what a stranger sent"), "select 1")
	require.ErrorIs(t, err, shardedpg.ErrInvalidTenant)
	require.NotContains(t, attributesOf(p.last().Attributes()), "sharded_pg.tenant")

	p.exec("Acme", "insert into orders values ($1, $2)", 1, "secret")
	said := attributesOf(p.last().Attributes())
	require.Equal(t, "acme", said["sharded_pg.tenant"], "as it is in the registry")
	require.Equal(t, "insert into orders values ($1, $2)", said["db.query.text"])
}

func TestWaitForASlotIsOnTheSpanAndInTheMetrics(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	tx, err := p.db.BeginTx(p.as("acme"), nil)
	require.NoError(t, err)
	_, err = tx.Exec("select 1")
	require.NoError(t, err)
	p.ended()
	done := make(chan error, 1)
	go func() {
		_, err := p.db.ExecContext(p.as("acme"), "delete from orders")
		done <- err
	}()
	require.Eventually(t, func() bool {
		return p.sum("db.client.connection.pending_requests", "db.client.connection.pool.name", "eu", "sharded_pg.plan", "small") == 1
	}, 20*time.Second, time.Millisecond)
	require.EqualValues(t, 1, p.sum("sharded_pg.slots.used", "db.namespace", "eu"))
	released := time.Now()
	require.NoError(t, tx.Commit())
	require.NoError(t, <-done)

	spans := p.ended()
	require.Equal(t, []string{"COMMIT eu", "DELETE eu"}, names(spans))
	require.Empty(t, spans[0].Events(), "a transaction has its connection already")
	require.True(t, spans[1].StartTime().Before(released))
	require.True(t, spans[1].Events()[0].Time.After(released))
	require.Zero(t, p.sum("db.client.connection.pending_requests"))
	require.EqualValues(t, 1, p.sum("sharded_pg.slots.waits", "sharded_pg.plan", "small"))
	require.Positive(t, p.sum("sharded_pg.slots.wait_time"))
	require.EqualValues(t, 2, p.sum("db.client.connection.wait_time", "db.client.connection.pool.name", "eu", "sharded_pg.plan", "small"),
		"BEGIN and DELETE took a connection, the rest was on one")
}

func TestTransactionHasASpanForEachStep(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{Tenants: true})
	tx, err := p.db.BeginTx(p.as("acme"), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), "insert into orders values (1)") // a transaction knows its tenant
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	tx, err = p.db.BeginTx(p.as("acme"), nil)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())
	spans := p.ended()
	require.Equal(t, []string{"BEGIN eu", "INSERT eu", "COMMIT eu", "BEGIN eu", "ROLLBACK eu"}, names(spans))
	for _, s := range spans {
		require.Equal(t, "acme", attributesOf(s.Attributes())["sharded_pg.tenant"], s.Name())
	}
}

func TestPreparedStatementsAreTraced(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	s, err := p.db.PrepareContext(p.as("acme"), "select $1::int")
	require.NoError(t, err)
	var n int
	require.NoError(t, s.QueryRowContext(p.as("globex"), 7).Scan(&n))
	_, err = s.ExecContext(p.as("acme"), 7)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, p.db.PingContext(p.as("acme")))
	require.Equal(t, []string{"PREPARE eu", "SELECT eu", "SELECT eu", "PING eu"}, names(p.ended()))
}

func TestRefusalsAreSpansWithTheirType(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{}, func(c *shardedpg.Config) { c.AcquireTimeout = 50 * time.Millisecond })
	p.exec("acme", "select 1")
	tx, err := p.db.BeginTx(p.as("acme"), nil)
	require.NoError(t, err)
	p.ended()
	for _, c := range []struct {
		ctx               context.Context
		query             string
		name, kind, stage string
	}{
		{t.Context(), "select 1", "SELECT", "no_tenant", "tenant"},
		{p.as("nobody"), "select 1", "SELECT", "tenant_not_found", "route"},
		{p.as("acme"), "select 1", "SELECT eu", "tenant_busy", "slot"},
		{p.as("globex"), "drop role app", "DROP eu", "statement_refused", "statement"},
		{p.as("lost"), "select 1", "SELECT gone", "shard_unavailable", "backend"},
	} {
		_, err := p.db.ExecContext(c.ctx, c.query)
		require.Error(t, err)
		span := p.last()
		said := attributesOf(span.Attributes())
		require.Equal(t, c.name, span.Name())
		require.Equal(t, c.kind, said["error.type"])
		require.Equal(t, c.stage, said["sharded_pg.stage"])
		require.Equal(t, codes.Error, span.Status().Code)
		require.EqualValues(t, 1, p.sum("db.client.operation.duration", "error.type", c.kind))
	}
	require.NoError(t, tx.Rollback())
	require.EqualValues(t, 1, p.sum("sharded_pg.refusals", "sharded_pg.reason", "tenant_busy", "sharded_pg.plan", "small", "db.namespace", "eu"))
	require.EqualValues(t, 1, p.sum("db.client.connection.wait_time", "error.type", "tenant_busy"))
}

// Arguments come back in the texts of errors, and so does the connection string.
func TestNoValueAndNoConnectionStringIsRecorded(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{Tenants: true, Statements: true, BusiestTenants: 5})
	p.exec("acme", "insert into orders values ($1, $2)", 1, "s3cret")
	for query, state := range map[string]string{
		"select $1::text::int":                          "22P02",
		"insert into orders select 1, $1::text":         "23505",
		"select set_config('nothing', $1, true) from x": "42P01",
	} {
		_, err := p.db.ExecContext(p.as("acme"), query, "s3cret")
		require.Error(t, err)
		spans := p.ended()
		said := attributesOf(spans[len(spans)-1].Attributes())
		require.Equal(t, state, said["error.type"])
		require.Equal(t, state, said["db.response.status_code"])
	}
	_, err := p.db.ExecContext(p.as("acme"), "select $1::text::int", "s3cret")
	require.ErrorContains(t, err, "s3cret")
	_, err = p.db.ExecContext(p.as("lost"), "select $1::text", "s3cret")
	require.ErrorContains(t, err, "/nowhere")

	all := p.spans.Ended() // with those of connecting
	require.Contains(t, strings.Join(names(all), ","), "CONNECT gone")
	var recorded strings.Builder
	for _, s := range all {
		fmt.Fprintf(&recorded, "%s %v %v %+v\n", s.Name(), s.Attributes(), s.Status(), s.Events())
	}
	for _, m := range p.collect() {
		fmt.Fprintf(&recorded, "%+v\n", m)
	}
	for _, secret := range []string{"s3cret", password, "ghost", "vault", "nowhere", p.database, "watched"} {
		require.NotContains(t, recorded.String(), secret)
	}
}

func TestErrorAmongTheRowsIsOnTheSpan(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	rows, err := p.db.QueryContext(p.as("acme"), "select repeat('x', 9999), 1 / (500 - i) from generate_series(1, 500) i")
	require.NoError(t, err)
	for rows.Next() {
	}
	require.Error(t, rows.Err())
	span := p.last()
	require.Equal(t, "22012", attributesOf(span.Attributes())["error.type"])
	require.Equal(t, codes.Error, span.Status().Code)
}

func TestStatementThatIsSentAgainIsOneSpan(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	read := func() {
		rows, err := p.db.QueryContext(p.as("acme"), "select * from orders")
		require.NoError(t, err)
		require.NoError(t, rows.Close())
	}
	read()
	require.NotContains(t, attributesOf(p.last().Attributes()), "sharded_pg.tries")
	require.NoError(t, p.server.Exec(t.Context(), p.database, "alter table orders add column more int"))
	read()
	require.Equal(t, "2", attributesOf(p.last().Attributes())["sharded_pg.tries"])
}

func TestConnectingHasASpanBelowTheStatement(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	p.exec("acme", "select 1")
	spans := p.spans.Ended()
	require.Equal(t, []string{"CONNECT eu", "SELECT eu"}, names(spans))
	require.Equal(t, spans[1].SpanContext().SpanID(), spans[0].Parent().SpanID())
}

type counting struct{ queries int }

func (c *counting) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.queries++
	return ctx
}
func (*counting) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestCallersTracerIsCalledAsWell(t *testing.T) {
	t.Parallel()
	own := &counting{}
	p := start(t, otelshard.Options{}, func(c *shardedpg.Config) {
		c.ConfigureConn = func(_ string, cc *pgx.ConnConfig) error { cc.Tracer = own; return nil }
	})
	p.exec("acme", "select 1")
	require.Equal(t, 1, own.queries)
	require.Equal(t, "SELECT eu", p.last().Name())
}

func TestRawConnectionKeepsItsMethods(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	c, err := p.db.Conn(p.as("acme"))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Raw(func(dc any) error {
		batch := &pgx.Batch{}
		batch.Queue("insert into orders values (1)")
		return dc.(interface{ Conn() *pgx.Conn }).Conn().SendBatch(t.Context(), batch).Close()
	}))
	rows, err := c.QueryContext(t.Context(), "select id from orders")
	require.NoError(t, err)
	defer rows.Close()
	types, err := rows.ColumnTypes()
	require.NoError(t, err)
	require.Equal(t, "int32", types[0].ScanType().String())
}

type panics struct{}

func (panics) Value() (driver.Value, error) { panic("in an argument") }

func TestPanicOfAnArgumentEndsTheSpan(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	for _, do := range []func(){
		func() { _, _ = p.db.ExecContext(p.as("acme"), "select $1::text", panics{}) },
		func() { _, _ = p.db.QueryContext(p.as("globex"), "select $1::text", panics{}) },
	} {
		require.Panics(t, do)
		require.Equal(t, "panic", attributesOf(p.last().Attributes())["error.type"])
	}
}
