package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// ShardState says whether a shard takes new tenants. It changes nothing for those that live there.
type ShardState string

// The states of a shard.
const (
	ShardOpen     ShardState = "open"     // takes new tenants
	ShardFull     ShardState = "full"     // takes none until it is opened again
	ShardDraining ShardState = "draining" // takes none, and those on it shall move away
)

var shardStates = []ShardState{ShardOpen, ShardFull, ShardDraining}

const (
	// DefaultMaxTenants is how many tenants a shard takes unless it is told.
	DefaultMaxTenants = 500
	// UnlimitedTenants as MaxTenants means that tenants are not counted.
	UnlimitedTenants = math.MaxInt32
	// ManyTenants is the number of tenants, or of schemas, on one shard from which on the catalog, dumps and migrations
	// get slow: [ShardInfo.Warnings] says so.
	ManyTenants = 1000
)

// Shard is a PostgreSQL server that holds tenants. Stored DSNs may hold ${NAME} references. Optional fields that are
// empty take the stated default.
type Shard struct {
	Name     string
	DSN      string // secret; what tenants' statements use
	AdminDSN string // secret; what provisioning, health checks and ShardDB use; default: there is none

	Region     string            // where it is, for tenants that must be there; default: nowhere in particular
	Labels     map[string]string // what tenants may ask for: {"tier": "ssd"}; [SlotsLabel], [MemoryLabel]
	MaxTenants int               // how many tenants it takes; default DefaultMaxTenants
	MaxBytes   int64             // size of its databases above which it takes no more; default: size does not matter
	State      ShardState        // default: stays as it is, and ShardOpen for a new shard
}

// String names the shard and never its DSNs.
func (s Shard) String() string { return "shard " + s.Name }

// GoString keeps DSNs out of %#v, too.
func (s Shard) GoString() string { return "registry.Shard{" + s.Name + "}" }

// MarshalJSON leaves the DSNs out, and says only whether there is one for administrators.
func (s Shard) MarshalJSON() ([]byte, error) { return json.Marshal(s.public()) }

type publicShard struct {
	Name       string            `json:"name"`
	Region     string            `json:"region,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	MaxTenants int               `json:"max_tenants"`
	MaxBytes   int64             `json:"max_bytes,omitempty"`
	State      ShardState        `json:"state"`
	Admin      bool              `json:"has_admin_dsn"`
}

func (s Shard) public() publicShard {
	return publicShard{s.Name, s.Region, s.Labels, s.MaxTenants, s.MaxBytes, s.State, s.AdminDSN != ""}
}

// ShardInfo is a shard and who lives there.
type ShardInfo struct {
	Shard
	Tenants int // removed ones included: their rows are there
	Schemas int // those of them with model schema
}

// MarshalJSON is that of the shard, and the counts.
func (s ShardInfo) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		publicShard
		Tenants  int      `json:"tenants"`
		Schemas  int      `json:"schemas"`
		Warnings []string `json:"warnings,omitempty"`
	}{s.public(), s.Tenants, s.Schemas, s.Warnings()})
}

// Warnings says what will hurt soon, with numbers.
func (s ShardInfo) Warnings() (texts []string) {
	if s.Tenants > ManyTenants {
		texts = append(texts, fmt.Sprintf("%d tenants, more than %d: migrations, dumps and moves take long; add a shard",
			s.Tenants, ManyTenants))
	}
	if s.Schemas > ManyTenants {
		texts = append(texts, fmt.Sprintf("%d schemas, more than %d: the catalog gets slow; use model shared for small tenants",
			s.Schemas, ManyTenants))
	}
	if s.Tenants > s.MaxTenants {
		texts = append(texts, fmt.Sprintf("%d tenants, more than its max tenants %d: move some away", s.Tenants, s.MaxTenants))
	}
	return texts
}

// withDefaults fills in what is open, from the stored shard if there is one.
func (s Shard) withDefaults(stored *Shard) Shard {
	if s.MaxTenants == 0 {
		s.MaxTenants = DefaultMaxTenants
	}
	if s.State == "" {
		s.State = ShardOpen
		if stored != nil {
			s.State = stored.State
		}
	}
	s.Labels = maps.Clone(s.Labels)
	return s
}

func (s Shard) route() resolver.Shard { return resolver.Shard{Name: s.Name, DSN: s.DSN} }

func validateShard(s Shard) error {
	var p problems
	checkName(&p, "name", s.Name)
	if s.DSN == "" {
		p.add("dsn is empty: give the connection string that tenants' statements use")
	}
	checkDSN(&p, "dsn", s.DSN)
	checkDSN(&p, "admin dsn", s.AdminDSN)
	if s.Region != "" {
		checkName(&p, "region", s.Region)
	}
	checkLabels(&p, s.Labels)
	checkCapacity(&p, s.Labels)
	if s.MaxTenants < 0 || s.MaxTenants > UnlimitedTenants {
		p.add("max tenants is %d: use at least 1, or registry.UnlimitedTenants", s.MaxTenants)
	}
	if s.MaxBytes < 0 {
		p.add("max bytes is %d: use a size, or 0 when size does not matter", s.MaxBytes)
	}
	if s.State != "" && !slices.Contains(shardStates, s.State) {
		p.add("unknown state %q: use one of %q", cut(string(s.State)), shardStates)
	}
	return p.err("shard", s.Name)
}

// checkLabels is the rule for labels of shards and tenants: they appear on command lines as name=value.
func checkLabels(p *problems, labels map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if !plainName(name, maxIdentifier) || !plainName(labels[name], maxIdentifier) {
			p.add("label %q is not allowed: use letters, digits, dots, hyphens and underscores for name and value",
				cut(name+"="+labels[name]))
		}
	}
}

// has reports whether labels holds each of want.
func has(labels, want map[string]string) bool {
	for name, value := range want {
		if got, ok := labels[name]; !ok || got != value {
			return false
		}
	}
	return true
}

func byName(a, b Shard) int { return strings.Compare(a.Name, b.Name) }
