package middleware

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// UnaryServerInterceptor puts the tenant of each call into the context of its handler. The function tenant says whose call
// it is; it reads what an interceptor in front has authenticated, from the context.
func UnaryServerInterceptor(tenant func(context.Context) (string, error)) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := withTenantOf(ctx, tenant)
		if err != nil {
			return nil, err
		}
		return handler(ctx, request)
	}
}

// StreamServerInterceptor does the same for calls with streams: one tenant for the whole stream.
func StreamServerInterceptor(tenant func(context.Context) (string, error)) grpc.StreamServerInterceptor {
	return func(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := withTenantOf(stream.Context(), tenant)
		if err != nil {
			return err
		}
		return handler(service, tenantStream{stream, ctx})
	}
}

// tenantStream is a stream with another context: gRPC's has no way to set one.
type tenantStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the stream's context, with its tenant.
func (s tenantStream) Context() context.Context { return s.ctx }

// withTenantOf refuses a call that names no tenant. The answer does not repeat why: that is for the log.
func withTenantOf(ctx context.Context, tenant func(context.Context) (string, error)) (context.Context, error) {
	id, err := tenant(ctx)
	if err != nil || resolver.ValidTenantID(id) != nil {
		return nil, status.Error(codes.InvalidArgument, "the call names no valid tenant")
	}
	return shardedpg.WithTenant(ctx, id), nil
}
