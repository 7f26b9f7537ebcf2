// Package connerr says why a server could not be connected to, without the parts of the DSN that pgx's own text has.
package connerr

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Reason returns the *pgconn.PgError of a server that answered, or else what the network said, each thing once: without
// sslmode in the DSN pgx tries each address twice, and a server that is down says the same to both.
func Reason(err error) error {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) && connect.Unwrap() != nil {
		return once(connect.Unwrap())
	}
	return err
}

// Hosts is what each of several hosts said, also where one of them answered.
func Hosts(err error) error {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) && connect.Unwrap() != nil {
		return once(connect.Unwrap())
	}
	return err
}

// Failed is Reason as the text of a failed connection.
func Failed(err error) error {
	err = Reason(err)
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return err
	}
	return fmt.Errorf("no connection: %w", err)
}

// reasons are joined errors on one line.
type reasons []error

func once(err error) error {
	var dns *net.DNSError
	if inner := errors.Unwrap(err); inner != nil && errors.As(inner, &dns) { // each name says by itself that it does not resolve
		err = inner
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var all reasons
	for _, reason := range joined.Unwrap() {
		if !slices.ContainsFunc(all, func(other error) bool { return other.Error() == reason.Error() }) {
			all = append(all, reason)
		}
	}
	return all
}

func (r reasons) Error() string {
	texts := make([]string, len(r))
	for i, reason := range r {
		texts[i] = reason.Error()
	}
	return strings.Join(texts, "; ")
}

func (r reasons) Unwrap() []error { return r }
