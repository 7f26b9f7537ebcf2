package httptenant_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/httptenant"
)

func ExampleMiddleware() {
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, _ := shardedpg.TenantFrom(r.Context()) // db.QueryContext(r.Context(), …) would run as this tenant
		fmt.Fprintln(w, "orders of", tenant)
	})
	handler := httptenant.Middleware(httptenant.FromSubdomain("example.com"))(orders)

	for _, host := range []string{"acme.example.com", "example.com"} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "http://"+host+"/orders", nil))
		fmt.Print(answer.Code, " ", answer.Body)
	}
	// Output:
	// 200 orders of acme
	// 400 the request names no tenant
}
