package registry

import (
	"fmt"
	"slices"

	"github.com/sharded-pg/sharded-pg/resolver"
)

var states = []resolver.State{
	resolver.StateProvisioning, resolver.StateActive, resolver.StateReadOnly, resolver.StateDisabled,
	resolver.StateMoving, resolver.StateDeleting,
}

var models = []resolver.Model{resolver.ModelShared, resolver.ModelPartition, resolver.ModelSchema, resolver.ModelDatabase}

// checkTransition refuses what the diagram in the package documentation does not show.
func checkTransition(from, to resolver.State) error {
	switch {
	case !slices.Contains(states, to):
		return fmt.Errorf("%w: unknown state %q: use one of %q", ErrInvalid, to, states)
	case from == to:
	case from == resolver.StateDeleting:
		return fmt.Errorf("%w: a tenant that is being deleted cannot become %s", ErrInvalid, to)
	case to == resolver.StateProvisioning:
		return fmt.Errorf("%w: a tenant that is %s cannot be provisioned again", ErrInvalid, from)
	case from == resolver.StateProvisioning && to != resolver.StateActive && to != resolver.StateDeleting:
		return fmt.Errorf("%w: a tenant in provisioning becomes active or deleting first, not %s", ErrInvalid, to)
	}
	return nil
}
