package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// PutShard adds or replaces a shard without connecting to it. Doing so again changes nothing. What people type goes
// through [Admin.AddShard], which tries the DSNs and never replaces.
func (a *Admin) PutShard(ctx context.Context, shard Shard) error {
	if err := validateShard(shard); err != nil {
		return err
	}
	return a.store.change(ctx, fmt.Sprintf("storing shard %q", shard.Name), func(tx *change) error {
		_, err := putShard(ctx, tx, shard)
		return err
	})
}

func putShard(ctx context.Context, tx *change, shard Shard) (changed bool, err error) {
	if err := tx.lock(ctx); err != nil {
		return false, err
	}
	stored, err := tx.shards.get(ctx, shard.Name)
	if err != nil {
		return false, err
	}
	shard = shard.withDefaults(stored)
	return save(ctx, tx, shardKind, tx.shards, "put_shard", "", stored, &shard)
}

// AddShard connects with the DSNs of a new shard and adds it. It fails with [ErrExists] when there is one of that name.
func (a *Admin) AddShard(ctx context.Context, shard Shard) error {
	if err := validateShard(shard); err != nil {
		return err
	}
	return a.connectFirst(ctx, shard, fmt.Sprintf("adding shard %q", shard.Name), func(tx *change) error {
		if err := tx.lock(ctx); err != nil {
			return err
		}
		stored, err := tx.shards.get(ctx, shard.Name)
		if err != nil {
			return err
		}
		if stored != nil {
			return fmt.Errorf("%w: shard %q: SetShardDSN changes where it is, UpdateShard the rest", ErrExists, shard.Name)
		}
		added := shard.withDefaults(nil)
		_, err = save(ctx, tx, shardKind, tx.shards, "add_shard", "", nil, &added)
		return err
	})
}

// connectFirst makes a change if the DSNs of shard work. For a change that is refused in any case nobody connects.
func (a *Admin) connectFirst(ctx context.Context, shard Shard, what string, do func(tx *change) error) error {
	err := a.store.change(ctx, what, func(tx *change) error {
		if err := do(tx); err != nil {
			return err
		}
		return errDryRun
	})
	if !errors.Is(err, errDryRun) {
		return err
	}
	if err := tryDSNs(ctx, shard); err != nil {
		return err
	}
	return a.store.change(ctx, what, do)
}

// updateShard reads a shard under the lock, lets edit change it, and stores it.
func (a *Admin) updateShard(ctx context.Context, action, name, note string, edit func(*Shard) error) error {
	return a.store.change(ctx, changing(name), func(tx *change) error { return updateShard(ctx, tx, action, name, note, edit) })
}

func changing(shard string) string { return fmt.Sprintf("changing shard %q", cut(shard)) }

func updateShard(ctx context.Context, tx *change, action, name, note string, edit func(*Shard) error) error {
	if err := tx.lock(ctx); err != nil {
		return err
	}
	stored, err := tx.shards.get(ctx, name)
	if stored, err = must(stored, err, ErrShardNotFound, name); err != nil {
		return err
	}
	shard := stored.withDefaults(stored)
	if err := edit(&shard); err != nil {
		return err
	}
	if err := validateShard(shard); err != nil {
		return err
	}
	_, err = save(ctx, tx, shardKind, tx.shards, action, note, stored, &shard)
	return err
}

// SetShardDSN connects with the new DSNs and stores them: the shard's tenants are routed there from now on. The audit
// log records that they changed, and not to what. reason is for the audit log and required: a wrong DSN sends all
// tenants of a shard to other databases.
func (a *Admin) SetShardDSN(ctx context.Context, name, dsn, adminDSN, reason string) error {
	if reason == "" {
		return fmt.Errorf("%w: shard %q: a DSN is changed for a reason that is recorded: give one", ErrInvalid, cut(name))
	}
	shard := Shard{Name: name, DSN: dsn, AdminDSN: adminDSN}
	if err := errors.Join(validateShard(shard), validateReason(name, reason)); err != nil {
		return err
	}
	return a.connectFirst(ctx, shard, changing(name), func(tx *change) error {
		return updateShard(ctx, tx, "set_shard_dsn", name, reason, func(s *Shard) error {
			s.DSN, s.AdminDSN = dsn, adminDSN
			return nil
		})
	})
}

// UpdateShard lets edit change region, labels and limits of a shard. Name and DSNs stay what they are.
func (a *Admin) UpdateShard(ctx context.Context, name string, edit func(*Shard)) error {
	return a.updateShard(ctx, "update_shard", name, "", func(s *Shard) error {
		stored := *s
		edit(s)
		if s.Name != stored.Name || s.DSN != stored.DSN || s.AdminDSN != stored.AdminDSN {
			return fmt.Errorf("%w: shard %q: UpdateShard changes neither name nor DSN: use SetShardDSN", ErrInvalid, name)
		}
		return nil
	})
}

func validateReason(shard, reason string) error {
	var p problems
	checkReason(&p, reason)
	return p.err("change of shard", shard)
}

// SetShardState opens a shard for new tenants, or closes it. reason is for the audit log: one line, which may be empty.
func (a *Admin) SetShardState(ctx context.Context, name string, state ShardState, reason string) error {
	if !slices.Contains(shardStates, state) {
		return fmt.Errorf("%w: unknown shard state %q: use one of %q", ErrInvalid, cut(string(state)), shardStates)
	}
	if err := validateReason(name, reason); err != nil {
		return err
	}
	return a.updateShard(ctx, "set_shard_state", name, reason, func(s *Shard) error {
		s.State = state
		return nil
	})
}

// RemoveShard takes a shard that holds no tenants out of the registry. It touches nothing on the server.
func (a *Admin) RemoveShard(ctx context.Context, name string) error {
	return a.store.change(ctx, fmt.Sprintf("removing shard %q", cut(name)), func(tx *change) error {
		if err := tx.lock(ctx); err != nil {
			return err
		}
		stored, err := tx.shards.get(ctx, name)
		if stored, err = must(stored, err, ErrShardNotFound, name); err != nil {
			return err
		}
		counts, err := tx.population(ctx)
		if err != nil {
			return err
		}
		if n := counts[name].tenants; n > 0 {
			return fmt.Errorf("%w: shard %q: %s there, removed ones included: move or purge them first",
				ErrShardInUse, name, many(n, "tenant"))
		}
		_, err = save(ctx, tx, shardKind, tx.shards, "remove_shard", "", stored, nil)
		return err
	})
}

// ListShards returns all shards by name with the number of their tenants. Their DSNs are as they are stored, references
// and all; printing a shard or marshalling it to JSON leaves them out.
func (a *Admin) ListShards(ctx context.Context) ([]ShardInfo, error) {
	return view(ctx, a, "listing the shards", func(tx *change) ([]ShardInfo, error) {
		shards, err := tx.shards.all(ctx)
		if err != nil {
			return nil, err
		}
		counts, err := tx.population(ctx)
		if err != nil {
			return nil, err
		}
		infos := make([]ShardInfo, 0, len(shards))
		for _, shard := range shards {
			n := counts[shard.Name]
			infos = append(infos, ShardInfo{Shard: shard, Tenants: n.tenants, Schemas: n.schemas})
		}
		return infos, nil
	})
}

// ShardDSNs returns a shard with its DSNs expanded, for tools that connect to it.
func (a *Admin) ShardDSNs(ctx context.Context, name string) (resolver.Shard, error) {
	stored, err := view(ctx, a, "reading a shard", func(tx *change) (*Shard, error) { return tx.shards.get(ctx, name) })
	if stored, err = must(stored, err, ErrShardNotFound, name); err != nil {
		return resolver.Shard{}, err
	}
	return expandShard(*stored)
}
