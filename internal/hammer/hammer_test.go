package hammer_test

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sharded-pg/sharded-pg/internal/hammer"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

var (
	span   = flag.Duration("hammer.time", 15*time.Second, "how long to hammer")
	seed   = flag.Uint64("hammer.seed", 0, "seed of the random choices; 0: another one each time")
	phases = flag.String("hammer.phases", "", "comma-separated phases to run, of "+hammer.Names()+"; empty: all")
	calm   = flag.Bool("hammer.calm", false, "leave connections and servers alone")
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// TestHammer is not parallel: it measures what the process holds at its end.
func TestHammer(t *testing.T) {
	if testing.Short() {
		t.Skip("needs servers; run without -short")
	}
	c := hammer.Config{Time: *span, Seed: *seed, Calm: *calm}
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	if *phases != "" {
		c.Phases = strings.Split(*phases, ",")
	}
	hammer.Run(t, c)
}
