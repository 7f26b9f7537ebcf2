package resolver

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

// ErrRouteUnusable: the source answered, but what it holds for this tenant cannot be used, for example because the DSN
// of its shard refers to an environment variable that is not set. The error also matches [ErrRegistryUnavailable].
// Other tenants are not affected. Make one with [UnusableRoute].
var ErrRouteUnusable = errors.New("route unusable")

// UnusableRoute returns an error that matches [ErrRouteUnusable] and cause. A [Source] returns it when it could be asked
// and its answer for this one tenant is unfit: a [Cache] then does not conclude that the source is down.
func UnusableRoute(cause error) error { return &unusableError{cause: cause} }

type unusableError struct{ cause error }

func (e *unusableError) Error() string { return ErrRouteUnusable.Error() + ": " + e.cause.Error() }

func (e *unusableError) Unwrap() []error {
	return []error{ErrRouteUnusable, ErrRegistryUnavailable, e.cause}
}

// unavailable wraps what went wrong with a source. The end of the lookup's own context must not look like the end of
// the caller's, and [driver.ErrBadConn] would make database/sql repeat the caller's statement: those keep only their text.
func unavailable(cause error) error {
	switch {
	case errors.Is(cause, ErrRegistryUnavailable):
		return cause
	case errors.Is(cause, context.Canceled), errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, driver.ErrBadConn):
		return fmt.Errorf("%w: %s", ErrRegistryUnavailable, cause.Error())
	default:
		return fmt.Errorf("%w: %w", ErrRegistryUnavailable, cause)
	}
}

// sure reports whether err is an answer about one tenant, not a failure of the source.
func sure(err error) bool {
	return errors.Is(err, ErrTenantNotFound) || errors.Is(err, ErrInvalidTenant) || errors.Is(err, ErrTenantDisabled) ||
		errors.Is(err, ErrRouteUnusable)
}
