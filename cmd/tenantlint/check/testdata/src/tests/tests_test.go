package tests

import (
	"database/sql"
	"testing"
)

func TestWithout(t *testing.T) {
	db, _ := sql.Open("sharded-pg", "")
	db.Exec("") // want `Exec has no context`
}
