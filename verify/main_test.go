package verify_test

import (
	"os"
	"testing"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
