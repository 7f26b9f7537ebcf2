package hosts

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// try is what pgx tries at one address, with TLS or without.
type try struct {
	*pgconn.FallbackConfig
	address string
	found   string // by which the host was looked up; empty for a socket, and where nothing was found
	err     error
}

func (t try) of() host { return host{t.Host, t.Port} }

// lookup returns what pgx would try, in its order. It asks once for each name. Of several names, one whose lookup hangs leaves some of
// limit for the others.
func lookup(ctx context.Context, cc *pgconn.Config, limit time.Duration) (tries []try) {
	type answer struct {
		found []string
		err   error
	}
	answers := make(map[string]answer)
	each := limit
	if n := Count(cc); n > 1 {
		each = limit / time.Duration(n+1)
		if cc.ConnectTimeout > 0 {
			each = min(each, cc.ConnectTimeout)
		}
	}
	for _, h := range of(cc) {
		network, address := pgconn.NetworkAddress(h.Host, h.Port)
		if network == "unix" {
			tries = append(tries, try{FallbackConfig: h, address: address})
			continue
		}
		a, asked := answers[h.Host]
		if !asked {
			a.found, a.err = ask(ctx, cc, h.Host, each)
			answers[h.Host] = a
		}
		if a.err != nil || len(a.found) == 0 {
			tries = append(tries, try{FallbackConfig: h, err: a.err})
			continue
		}
		for _, found := range a.found {
			address := found
			if _, _, err := net.SplitHostPort(found); err != nil { // the name's own port is not with it
				_, address = pgconn.NetworkAddress(found, h.Port)
			}
			tries = append(tries, try{FallbackConfig: h, address: address, found: found})
		}
	}
	return tries
}

// ask looks up one name, which its error has.
func ask(ctx context.Context, cc *pgconn.Config, name string, limit time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found, err := cc.LookupFunc(ctx, name)
	var named *net.DNSError
	if err != nil && !errors.As(err, &named) { // of a LookupFunc that is the program's
		err = &net.DNSError{UnwrapErr: err, Err: err.Error(), Name: name, IsTimeout: errors.Is(err, context.DeadlineExceeded)}
	}
	return found, err
}

// apply has pgx make these tries, which are sorted by address, and returns how many addresses there are. pgx asks for the name of
// each in turn and is given one address: the names stay in its errors, in what tracers see, and in what certificates are checked for.
func apply(cc *pgconn.Config, tries []try) (addresses int) {
	cc.Host, cc.Port, cc.TLSConfig, cc.Fallbacks = tries[0].Host, tries[0].Port, tries[0].TLSConfig, nil
	var names []try
	before := ""
	for i, t := range tries {
		if i > 0 {
			cc.Fallbacks = append(cc.Fallbacks, t.FallbackConfig)
		}
		if t.address != "" && t.address != before {
			addresses++
			before = t.address
		}
		if network, _ := pgconn.NetworkAddress(t.Host, t.Port); network != "unix" {
			names = append(names, t)
		}
	}
	lookup := cc.LookupFunc
	cc.LookupFunc = func(ctx context.Context, name string) ([]string, error) {
		if len(names) == 0 || names[0].Host != name {
			return lookup(ctx, name)
		}
		t := names[0]
		names = names[1:]
		if t.found == "" {
			return nil, t.err
		}
		return []string{t.found}, nil
	}
	return addresses
}
