package middleware

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"

	"github.com/sharded-pg/sharded-pg/httptenant"
)

// Chi returns a router whose requests all have a tenant. chi's middleware is that of net/http.
func Chi(tenant func(*http.Request) (string, error)) chi.Router {
	router := chi.NewRouter()
	router.Use(httptenant.Middleware(tenant))
	return router
}

// Echo turns middleware of net/http into echo's. Handlers pass c.Request().Context() to statements.
func Echo(tenant func(*http.Request) (string, error)) echo.MiddlewareFunc {
	return echo.WrapMiddleware(httptenant.Middleware(tenant))
}

// Gin runs the handlers that follow inside middleware of net/http. Handlers pass c.Request.Context() to statements.
func Gin(tenant func(*http.Request) (string, error)) gin.HandlerFunc {
	middleware := httptenant.Middleware(tenant)
	return func(c *gin.Context) {
		passed := false
		middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			passed = true
			c.Request = r
			c.Next()
		})).ServeHTTP(c.Writer, c.Request)
		if !passed {
			c.Abort()
		}
	}
}
