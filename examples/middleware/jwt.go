package middleware

import (
	"crypto"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// claims is what the token says, next to what it must have in any case.
type claims struct {
	Tenant string `json:"tenant"`
	jwt.RegisteredClaims
}

// FromJWT reads the tenant from a claim of the request's bearer token: httptenant.Middleware(FromJWT(key, issuer)). A token
// that was not signed with the key, by that issuer and for now, names no tenant.
//
// The signing method is fixed here and never taken from the token, and a token without an end is refused.
func FromJWT(key crypto.PublicKey, issuer string) func(*http.Request) (string, error) {
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(issuer),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(10*time.Second),
	)
	return func(r *http.Request) (string, error) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", fmt.Errorf("%w: the request has no bearer token", shardedpg.ErrNoTenant)
		}
		var said claims
		if _, err := parser.ParseWithClaims(token, &said, func(*jwt.Token) (any, error) { return key, nil }); err != nil {
			return "", err
		}
		return said.Tenant, nil // the middleware refuses an empty one
	}
}
