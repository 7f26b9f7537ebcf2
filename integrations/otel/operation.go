package otelshard

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// What no convention has a name for.
const (
	tenantKey = attribute.Key("sharded_pg.tenant")
	planKey   = attribute.Key("sharded_pg.plan")
	waitKey   = attribute.Key("sharded_pg.wait")
	stageKey  = attribute.Key("sharded_pg.stage")
	triesKey  = attribute.Key("sharded_pg.tries")
)

// operation is what a caller asked for, from then until the answer is read: until the driver has returned and, for a query,
// its rows are closed. It is in the hands of one goroutine at a time, as its connection is.
type operation struct {
	t       *telemetry
	conn    *shardedpg.Conn
	ctx     context.Context // the caller's
	span    trace.Span
	name    string
	query   string
	began   time.Time
	waits   bool // for a connection
	back    bool // the driver has returned
	reading int  // queries whose rows pgx has not closed
	tries   int  // times that it was sent
	rows    int64
	err     error
	shard   string
	plan    string
}

type operationKey struct{}

// start begins an operation. What the driver does with the context that it returns belongs to the operation.
func (c *conn) start(ctx context.Context, name, query string) (context.Context, *operation) {
	tenant, _, _ := c.Leased()
	o := &operation{t: c.t, conn: c.inner, ctx: ctx, name: name, query: query, began: time.Now(), waits: tenant == ""}
	attributes := make([]attribute.KeyValue, 0, 8)
	attributes = append(attributes, semconv.DBSystemNamePostgreSQL)
	if name != "" {
		attributes = append(attributes, semconv.DBOperationName(name))
	}
	if query != "" && c.t.options.Statements {
		attributes = append(attributes, semconv.DBQueryText(query))
	}
	if c.t.options.Tenants {
		if id, ok := shardedpg.TenantFrom(ctx); ok && resolver.ValidTenantID(id) == nil {
			tenant = id
		}
		if tenant != "" {
			attributes = append(attributes, tenantKey.String(tenant))
		}
	}
	ctx, o.span = c.t.tracer.Start(ctx, spanName(name, ""), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(o.began), trace.WithAttributes(attributes...))
	return context.WithValue(ctx, operationKey{}, o), o
}

// ready says that the operation has the connection that it was waiting for.
func (o *operation) ready() {
	if o.waits {
		_, shard, plan := o.conn.Leased()
		o.waited(shard, planKey.String(plan))
		o.span.AddEvent("connection taken")
	}
}

func (o *operation) waited(shard string, how attribute.KeyValue) {
	o.waits = false
	wait := time.Since(o.began).Seconds()
	o.span.SetAttributes(waitKey.Float64(wait))
	o.t.waitTime.Record(o.ctx, wait, metric.WithAttributes(semconv.DBClientConnectionPoolName(shard), how))
}

// returned says what the driver has given its caller.
func (o *operation) returned(err error) {
	o.back, o.err = true, err
	if errors.Is(err, errPanic) { // pgx did not get to the end of what it began
		o.reading = 0
	}
	tenant, shard, plan := o.conn.Leased()
	o.shard, o.plan = shard, plan
	if o.t.options.Tenants && tenant != "" { // as the registry writes it
		o.span.SetAttributes(tenantKey.String(tenant))
	}
	var refused *shardedpg.Error
	if errors.As(err, &refused) {
		o.span.SetAttributes(stageKey.String(string(refused.Stage)))
		if o.shard == "" {
			o.shard = refused.Shard
		}
		if o.waits && refused.Stage == shardedpg.StageSlot {
			kind, _ := errorType(err)
			o.waited(o.shard, semconv.ErrorTypeKey.String(kind))
		}
	}
	o.end()
}

func (o *operation) end() {
	if !o.back || o.reading > 0 {
		return
	}
	now := time.Now()
	kind, state := errorType(o.err)
	if kind != "" {
		o.span.SetStatus(codes.Error, kind)
	}
	if o.shard != "" {
		o.span.SetName(spanName(o.name, o.shard))
	}
	attributes := o.attributes(kind, state)
	o.span.SetAttributes(attributes...)
	if o.rows > 0 {
		o.span.SetAttributes(semconv.DBResponseReturnedRows(int(o.rows)))
	}
	if o.tries > 1 {
		o.span.SetAttributes(triesKey.Int(o.tries))
	}
	o.span.End(trace.WithTimestamp(now))
	if !o.t.states.counts(state) {
		if kind == state {
			kind = "_OTHER"
		}
		attributes = o.attributes(kind, "")
	}
	attributes = append(attributes, semconv.DBSystemNamePostgreSQL)
	if o.name != "" {
		attributes = append(attributes, semconv.DBOperationName(o.name))
	}
	o.t.duration.Record(o.ctx, now.Sub(o.began).Seconds(), metric.WithAttributes(attributes...))
}

// attributes are what is known when it has ended.
func (o *operation) attributes(kind, state string) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, 8)
	if o.plan != "" {
		all = append(all, planKey.String(o.plan))
	}
	if kind != "" {
		all = append(all, semconv.ErrorTypeKey.String(kind))
	}
	if o.shard != "" {
		all = append(all, semconv.DBNamespace(o.shard))
	}
	if state != "" {
		all = append(all, semconv.DBResponseStatusCode(state))
	}
	return all
}

// tracer is on each connection of a shard. It tells operations when they are sent and when their rows are closed, which
// nobody above pgx can see without rows of another type.
type tracer struct {
	t     *telemetry
	shard string
}

var (
	_ pgx.QueryTracer   = (*tracer)(nil)
	_ pgx.ConnectTracer = (*tracer)(nil)
)

func (*tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if o, ok := ctx.Value(operationKey{}).(*operation); ok {
		o.ready()
		o.reading++
		if strings.HasPrefix(data.SQL, o.query) { // and no ROLLBACK to start a transaction again
			o.tries++
		}
	}
	return ctx
}

func (*tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	o, ok := ctx.Value(operationKey{}).(*operation)
	if !ok {
		return
	}
	o.reading--
	if o.back && data.Err != nil { // after the first row
		o.err = data.Err
	}
	if data.CommandTag.Select() {
		o.rows = data.CommandTag.RowsAffected()
	}
	o.end()
}

func (t *tracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	ctx, _ = t.t.tracer.Start(ctx, spanName("CONNECT", t.shard), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(semconv.DBSystemNamePostgreSQL, semconv.DBNamespace(t.shard)))
	return ctx
}

func (t *tracer) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	span := trace.SpanFromContext(ctx)
	if kind, _ := errorType(data.Err); kind != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(kind))
		span.SetStatus(codes.Error, kind)
	}
	span.End()
}
