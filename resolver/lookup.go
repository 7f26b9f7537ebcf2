package resolver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// flights are the lookups of one tenant that are under way: more than one only after an Invalidate. Its fields are
// guarded by Cache.mu.
type flights struct {
	count        int
	invalidation uint64 // grows with each Invalidate or Flush; an answer to a question asked before it may be old
}

// forgetFlights keeps later callers from joining the tenant's lookups and these from publishing. Callers hold mu.
func (c *Cache) forgetFlights(tenant string) {
	if under, ok := c.flights[tenant]; ok {
		under.invalidation++
	}
	c.group.Forget(tenant)
}

// lookup asks the source once, on its own deadline, and publishes the answer. It is run by singleflight.
func (c *Cache) lookup(ctx context.Context, tenant string) (*Route, error) {
	tenant = strings.Clone(tenant) // as a key it outlives the caller's buffer, which may be large or reused

	c.mu.Lock()
	if route, err := c.published(tenant); route != nil || err != nil {
		c.mu.Unlock()
		return route, err
	}
	under := c.flights[tenant]
	if under == nil {
		under = &flights{}
		c.flights[tenant] = under
	}
	under.count++
	asked, generation := under.invalidation, c.generation.Load()
	c.mu.Unlock()

	started := c.now()
	route, err := c.ask(ctx, tenant)
	now := c.now()

	c.lookups.Add(1)
	if err != nil && !sure(err) {
		c.lookupErrors.Add(1)
		err = unavailable(err)
		if !errors.Is(err, errClosedDuringLookup) {
			c.health.failed(started, now, err)
		}
	} else {
		c.health.answered(now)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if under.count--; under.count == 0 {
		delete(c.flights, tenant)
	}
	// Nobody may join a lookup that Flush no longer sees. Who comes now finds what is published below, because lookup
	// looks there first.
	c.group.Forget(tenant)
	current := under.invalidation == asked
	switch {
	case err == nil:
		return c.publish(tenant, route, current, generation, now), nil
	case sure(err) && current:
		c.routes.Remove(tenant)
		c.refusals.Add(tenant, &refusal{err: err, generation: generation, until: now + c.cfg.NegativeTTL})
	}
	return nil, err
}

// published returns the answer of a lookup that ended between a caller's miss and its own lookup, so that concurrent
// misses are one question whatever the timing. Callers hold mu.
func (c *Cache) published(tenant string) (*Route, error) {
	now, generation := c.now(), c.generation.Load()
	if known, ok := c.routes.Peek(tenant); ok && now < known.freshUntil && known.generation == generation {
		return known.route, nil
	}
	if no, ok := c.refusals.Peek(tenant); ok && now < no.until && no.generation == generation {
		return nil, no.err
	}
	return nil, nil
}

// publish stores the answer to a lookup and returns the route to use, which is the known one if that is newer. current
// is false when the tenant was invalidated after the question was asked. Callers hold mu.
func (c *Cache) publish(tenant string, route *Route, current bool, generation uint64, now time.Duration) *Route {
	known, ok := c.routes.Peek(tenant)
	usable := ok && now < known.staleUntil
	switch {
	case usable && route.Epoch < known.route.Epoch:
		// The source is behind what it said before, as a replica that lags. Ask again soon, and believe it once the
		// known route has run out of staleness: then it was restored from a backup.
		if current {
			again := *known
			again.generation, again.freshUntil = generation, now+c.cfg.NegativeTTL
			c.routes.Add(tenant, &again)
		}
		return known.route
	case !current && usable && route.Epoch == known.route.Epoch:
		return known.route // the known one may be the answer to a later question
	}
	fresh := entry{route: route, generation: generation, freshUntil: now + c.cfg.TTL}
	fresh.staleUntil = fresh.freshUntil + c.cfg.StaleFor
	if !current {
		fresh.freshUntil = 0
	}
	c.routes.Add(tenant, &fresh)
	c.refusals.Remove(tenant)
	return route
}

// ask puts the question. The source runs on a goroutine of its own, so that one that ignores its context delays nobody,
// and one that panics or calls runtime.Goexit ends nothing but its lookup.
func (c *Cache) ask(ctx context.Context, tenant string) (*Route, error) {
	timeout := c.cfg.LookupTimeout
	if !c.health.known.Load() {
		timeout = max(timeout, c.cfg.FirstLookupTimeout)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()

	type answer struct {
		route *Route
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		given := answer{err: errors.New("the source ended its goroutine without an answer")}
		defer func() {
			if p := recover(); p != nil {
				given = answer{err: fmt.Errorf("the source panicked: %v", p)}
			}
			answers <- given
		}()
		route, err := c.src.Lookup(ctx, tenant)
		given = answer{route: route, err: err}
	}()

	select {
	case given := <-answers:
		switch {
		case given.err != nil && ctx.Err() != nil && !sure(given.err):
			return nil, fmt.Errorf("no answer within %v", timeout)
		case given.err != nil:
			return nil, given.err
		case given.route == nil:
			return nil, UnusableRoute(errors.New("the source returned neither a route nor an error"))
		case given.route.Tenant != tenant:
			return nil, UnusableRoute(fmt.Errorf("the source returned the route of tenant %s", quoteID(given.route.Tenant)))
		}
		return given.route, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer within %v", timeout)
	case <-c.closed:
		return nil, errClosedDuringLookup
	}
}
