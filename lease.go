package shardedpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/sharded-pg/sharded-pg/internal/backend"
	"github.com/sharded-pg/sharded-pg/limits"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

// lease is what a virtual connection holds for one checkout by database/sql: a slot and a backend, for one tenant. A held
// lease whose backend is nil has lost it.
type lease struct {
	tenant   string
	route    *resolver.Route
	shard    *shard
	slot     limits.Slot
	backend  *backend.Backend
	gone     <-chan struct{} // closed when the server has let go of the backend that was lost
	settings rls.Settings
	deadline time.Time // of the context that the timeout in force was made for
	outside  bool      // the next statement runs outside a transaction block, and only that one
	counted  bool      // the next statement has been counted, when it was prepared or when it was sent before
}

func (l *lease) held() bool { return l.route != nil }

// acquire runs the stages in front of the statement: tenant, route, slot, backend, prologue. On a connection that is
// already leased only the tenant and the deadline are looked at.
func (c *Conn) acquire(ctx context.Context) (*backend.Backend, error) {
	l := &c.lease
	if c.over != nil {
		return nil, c.over
	}
	if l.held() {
		if err := l.admit(ctx, c.c.cfg.TenantCase); err != nil {
			return nil, err
		}
		return c.held(ctx)
	}
	tenant, err := c.c.tenant(ctx) // 1
	if err != nil {
		return nil, err
	}
	return c.acquireFor(ctx, tenant, false)
}

// acquireFor takes a slot and a backend, wherever the tenant lives. Its statement may have been counted before.
func (c *Conn) acquireFor(ctx context.Context, tenant string, counted bool) (*backend.Backend, error) {
	l := &c.lease
	for ; ; counted = true {
		if err := c.turn(ctx, tenant, counted); err != nil {
			return nil, err
		}
		c.setRoute(l.route)
		b, err := c.checkout(ctx)               // 4 and 5
		if !errors.Is(err, backend.ErrClosed) { // else its shard has another address since a moment ago
			return b, err
		}
	}
}

// setRoute makes the lease one of that route.
func (c *Conn) setRoute(route *resolver.Route) {
	l := &c.lease
	l.route = route
	l.settings = rls.For(l.route)
	if c.c.cfg.Tag {
		l.settings.Tag = rls.ApplicationName(l.tenant)
	}
}

// turn takes a slot for the tenant. Who has waited for it looks again: the tenant may have been disabled meanwhile, or be elsewhere, and
// those who move it do not wait for our queue.
func (c *Conn) turn(ctx context.Context, tenant string, counted bool) error {
	for ; ; counted = true {
		route, err := c.c.route(ctx, tenant) // 2
		if err != nil {
			return err
		}
		s, err := c.c.shard(route)
		if err != nil {
			return &Error{Stage: StageBackend, Tenant: tenant, Shard: route.Shard.Name, Err: err}
		}
		if err := s.pool.Refuses(); err != nil { // a dead shard is not waited for
			return backendError(err, tenant, s.name)
		}
		came := time.Now()
		request := slotRequest(tenant, route)
		request.Counted = counted
		slot, err := s.slots.Acquire(ctx, request) // 3
		if errors.Is(err, limits.ErrClosed) {      // the shard has another address
			continue
		}
		if err != nil {
			return slotError(err, tenant, s.name)
		}
		if time.Since(came) > brief {
			now, here := c.c.lookAgain(ctx, tenant, route)
			if !here {
				s.pool.Release(slot)
				continue
			}
			route = now
		}
		l := &c.lease
		l.tenant, l.route, l.shard, l.slot = tenant, route, s, slot
		return nil
	}
}

// brief is a wait in which a statement may as well have been on its way to the server.
const brief = 5 * time.Millisecond

// checkout takes a backend for the lease and arms it. Without one the lease is over.
func (c *Conn) checkout(ctx context.Context) (*backend.Backend, error) {
	l := &c.lease
	if !l.deadline.IsZero() { // a new backend takes the plan's limits for its own: a deadline is not one of them
		l.deadline, l.settings.TimeoutMS = time.Time{}, rls.For(l.route).TimeoutMS
	}
	key := backend.Key{
		Database: l.route.Database, Schema: l.route.Model == resolver.ModelSchema,
		Rows: l.route.Model != resolver.ModelSchema, Own: l.route.Model == resolver.ModelDatabase,
	}
	b, err := l.shard.pool.Checkout(ctx, key, &l.settings, l.slot)
	if err != nil {
		err = l.backendError(err)
		if c.tx.open {
			c.over = l.lost(lostTx, nil)
		}
		*l = lease{}
		return nil, err
	}
	l.backend = b
	b.Tell(l.slot)
	l.setDeadline(ctx)
	b.Arm(&l.settings)
	return b, nil
}

// release undoes acquire, in reverse. The pool gives the slot back when the server can no longer be busy for this lease.
func (c *Conn) release() {
	l := &c.lease
	c.over, c.tx = nil, tx{}
	if !l.held() {
		return
	}
	s, slot, b, gone := l.shard, l.slot, l.backend, l.gone
	*l = lease{}
	if b == nil {
		s.pool.ReleaseAfter(gone, slot)
		return
	}
	s.pool.Return(b, slot)
}

// held returns the backend of a lease that goes on.
func (c *Conn) held(ctx context.Context) (*backend.Backend, error) {
	l := &c.lease
	if l.backend == nil {
		c.count(ctx)
		return c.replace(ctx)
	}
	b := l.backend
	b.ClearFailures()
	if c.tx.open && b.BrokeTx() {
		return nil, &Error{Stage: StageStatement, Tenant: l.tenant, Shard: l.shard.name, Err: errBrokenTx, sent: true}
	}
	if b.Busy() {
		return nil, &Error{Stage: StageStatement, Tenant: l.tenant, Shard: l.shard.name, Err: errRowsOpen}
	}
	if !l.outside {
		b.InsideTx()
	}
	l.outside = false
	if b.NeedsRefresh() {
		if err := b.Refresh(ctx); err != nil && !b.Dead() { // a dead one tells by the statement what was lost
			return nil, l.backendError(err)
		}
	}
	if l.setDeadline(ctx) {
		b.SetTimeout(l.settings.TimeoutMS)
	}
	c.count(ctx)
	c.tx.statements++
	return b, nil
}

// count counts a statement on a connection that is held.
func (c *Conn) count(ctx context.Context) {
	if !c.lease.counted && (!c.tx.open || c.tx.statements > 0) { // BeginTx has counted the first statement of its transaction
		c.lease.slot.Count(ctx)
	}
	c.lease.counted = false
}

// replace takes another backend for a lease that has lost its own, which holds the slot until the server has let go of it. A
// transaction of which nothing ran moves with it. Of the session nothing is left, so it is where the tenant lives now.
func (c *Conn) replace(ctx context.Context) (*backend.Backend, error) {
	if c.tx.open && c.tx.statements > 0 {
		return nil, c.lease.lost(lostTx, nil)
	}
	select {
	case <-c.lease.gone:
	case <-ctx.Done():
		return nil, &Error{Stage: StageBackend, Tenant: c.lease.tenant, Shard: c.lease.shard.name, Err: fmt.Errorf("%w: %w", ctx.Err(), errLettingGo)}
	}
	tenant := c.lease.tenant
	route, here := c.c.lookAgain(ctx, tenant, c.lease.route)
	switch {
	case !here && c.tx.open:
		c.over = c.lease.lost(lostTx, nil)
		return nil, c.over
	case !here:
		c.release()
		return c.acquireFor(ctx, tenant, true) // no rate refuses anything on a connection that is held
	}
	c.setRoute(route)
	b, err := c.checkout(ctx)
	if errors.Is(err, backend.ErrClosed) && !c.tx.open { // its address has changed since a moment ago
		return c.acquireFor(ctx, tenant, true)
	}
	if err != nil || !c.tx.open {
		return b, err
	}
	c.tx.statements++
	return b, b.Begin(c.tx.opts)
}

var (
	errBrokenTx = errors.New("the transaction was ended by a BEGIN, COMMIT, ROLLBACK or PREPARE TRANSACTION in a statement; " +
		"use the methods of sql.Tx, and ROLLBACK TO for savepoints")
	errAbandoned = &Error{Stage: StageStatement, Err: errors.New("a panic in an earlier query has ended this transaction or " +
		"connection; start another one")}
	errLettingGo = errors.New("the server is still busy with a statement of this connection that was cancelled; wait longer, or take " +
		"another connection")
	errRowsOpen = errors.New("rows of an earlier query are still open on this connection; read them to the end or close " +
		"them first")
)

// setDeadline gives the statement the smaller of the plan's timeout and the time until the context's deadline. The same
// deadline again changes nothing: a limit that was armed a little earlier is only a little longer.
func (l *lease) setDeadline(ctx context.Context) (changed bool) {
	deadline, _ := ctx.Deadline()
	if deadline.Equal(l.deadline) {
		return false
	}
	l.deadline = deadline
	plan := rls.For(l.route)
	before := l.settings.TimeoutMS
	l.settings.TimeoutMS = plan.TimeoutMS
	if !deadline.IsZero() {
		l.settings.Cap(time.Until(deadline))
	}
	return l.settings.TimeoutMS != before
}

// admit checks a context against a lease that is bound already. No tenant inherits; another one is refused.
func (l *lease) admit(ctx context.Context, tenantCase TenantCase) error {
	tenant, err := tenantOf(ctx)
	if errors.Is(err, ErrNoTenant) {
		return nil
	}
	if err != nil {
		return err
	}
	if tenantCase.apply(tenant) != l.tenant {
		return &Error{Stage: StageTenant, Tenant: tenant, Err: fmt.Errorf("%w: this transaction or connection belongs to "+
			"tenant %q; start another one", ErrTenantMismatch, l.tenant)}
	}
	return nil
}

// tenant is stage 1: the valid, normalised tenant of a context.
func (c *Connector) tenant(ctx context.Context) (string, error) {
	id, err := tenantOf(ctx)
	if err != nil {
		return "", err
	}
	id = c.cfg.TenantCase.apply(id)
	if err := resolver.ValidTenantID(id); err != nil {
		return "", &Error{Stage: StageTenant, Err: err}
	}
	return id, nil
}

// route is stage 2: where the tenant lives, if it may run statements.
func (c *Connector) route(ctx context.Context, tenant string) (*resolver.Route, error) {
	r, err := c.routes.Resolve(ctx, tenant)
	if err != nil {
		return nil, routeError(err, tenant)
	}
	switch r.State {
	case resolver.StateActive, resolver.StateReadOnly:
		return r, nil
	}
	return nil, &Error{Stage: StageRoute, Tenant: tenant, Shard: r.Shard.Name, Err: fmt.Errorf(
		"%w: its state is %s; enable it in the registry", ErrTenantDisabled, r.State)}
}

// lookAgain returns the tenant's route of now to who knows one of before. Here means that it leads to the same place.
func (c *Connector) lookAgain(ctx context.Context, tenant string, before *resolver.Route) (now *resolver.Route, here bool) {
	now, err := c.route(ctx, tenant)
	if errors.Is(err, ErrRegistryUnavailable) { // without it, what was known goes on
		return before, true
	}
	return now, err == nil && now.Shard.Name == before.Shard.Name && now.Shard.DSN == before.Shard.DSN
}

func routeError(err error, tenant string) error {
	e := &Error{Stage: StageRoute, Tenant: tenant, Err: err}
	switch {
	case errors.Is(err, ErrRegistryUnavailable):
		e.RetryAfter = time.Second
		if !errors.Is(err, resolver.ErrRouteUnusable) { // that one says itself what to mend
			e.Err = fmt.Errorf("%w; check the registry, and retry", err)
		}
	case errors.Is(err, ErrTenantNotFound):
		e.Err = fmt.Errorf("%w; add it to the registry, or check the ID", err)
	}
	return e
}

func slotRequest(tenant string, r *resolver.Route) limits.Request {
	p := &r.Plan
	return limits.Request{Tenant: tenant, Plan: p.Name, Conns: p.MaxConns, Weight: p.Weight, Rate: p.Rate, Burst: p.Burst}
}

func slotError(err error, tenant, shard string) error {
	e := &Error{Stage: StageSlot, Tenant: tenant, Shard: shard, Err: err}
	var refusal *limits.RefusedError
	if errors.As(err, &refusal) {
		e.RetryAfter = refusal.RetryAfter
	}
	return e
}

func (l *lease) backendError(err error) error { return backendError(err, l.tenant, l.shard.name) }

// backendError is for failures to get a usable connection: nothing of the caller's was sent.
func backendError(err error, tenant, shard string) error {
	e := &Error{Stage: StageBackend, Tenant: tenant, Shard: shard, Err: err}
	if backend.PoolFull(err) {
		e.Err, e.RetryAfter = fmt.Errorf("%w: the pooler in front had no connection for it within its query_wait_timeout; keep "+
			"sharded_max_conns of all programs together at or below its pool size", ErrShardBusy), time.Second
		return e
	}
	if errors.Is(err, backend.ErrIdentity) {
		e.Stage, e.Err = StagePrologue, fmt.Errorf("%w: %w", ErrPrologue, err)
		return e
	}
	if !errors.Is(err, ErrUnsafeRole) && !errors.Is(err, backend.ErrClosed) && !errors.Is(err, context.Canceled) {
		check := "check that the server is up and takes connections"
		var dns *net.DNSError
		if errors.As(err, &dns) {
			check += ", that its DSN has the right host name, and that the resolver answers"
		}
		e.Err = fmt.Errorf("%w: %w; %s", ErrShardUnavailable, err, check)
		e.RetryAfter = time.Second
		var down *backend.DownError
		if errors.As(err, &down) && down.RetryAfter > 0 {
			e.RetryAfter = down.RetryAfter
		}
	}
	return e
}

// lost is for a connection that broke after something was sent. The cause is the network's, or nil.
func (l *lease) lost(what string, cause error) error {
	e := &Error{
		Stage: StageStatement, Tenant: l.tenant, Shard: l.shard.name, sent: true, RetryAfter: time.Second,
		Err: fmt.Errorf("%w: %s", ErrShardUnavailable, what),
	}
	if cause != nil {
		e.Err = fmt.Errorf("%w: %w", e.Err, cause)
	}
	return e
}

func (c TenantCase) apply(id string) string {
	switch c {
	case TenantCaseLower:
		return strings.ToLower(id)
	case TenantCaseUpper:
		return strings.ToUpper(id)
	}
	return id
}

// commentSafe makes a schema's name fit for an SQL comment. It only has to tell schemas apart.
func commentSafe(schema string) string { return noComment.Replace(schema) }

var noComment = strings.NewReplacer("/", "∕", "*", "∗")
