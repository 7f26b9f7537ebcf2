// Command tenantlint finds statements that lose their tenant: calls on a *sql.DB of sharded-pg without a context, or with one
// that no tenant can be in; and uses of SwitchTenant and ShardDB where nobody expects them. See README.md.
//
//	tenantlint ./...
//	go vet -vettool=$(which tenantlint) ./...
package main

import (
	"golang.org/x/tools/go/analysis/singlechecker"

	"github.com/sharded-pg/sharded-pg/cmd/tenantlint/check"
)

func main() { singlechecker.Main(check.New(&check.Config{})) }
