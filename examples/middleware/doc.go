// Package middleware shows how the tenant gets into the context, one file for each way in: what a request says (jwt.go, and
// package httptenant for host names and headers), the frameworks chi, echo and gin, gRPC, and work that a request starts
// (concurrent.go). Copy what you need; each is a few lines.
//
// # What to know
//
//   - chi and echo take net/http middleware as it is, so package httptenant fits. gin and gRPC need the few lines here.
//   - gin: pass c.Request.Context() to statements. The *gin.Context is a context too, but has the tenant only when the
//     engine's ContextWithFallback is set.
//   - gRPC: metadata is chosen by the client, as a header is. Take the tenant from what was authenticated.
//   - errgroup.WithContext keeps the tenant, context.WithoutCancel does, too, and context.Background loses it.
package middleware
