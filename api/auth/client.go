package auth

import (
	"context"

	"connectrpc.com/connect"
)

// WithToken is a client's side of authentication: an interceptor that puts a token on every call, streams too.
func WithToken(token string) connect.Interceptor { return withToken("Bearer " + token) }

type withToken string

func (t withToken) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("Authorization", string(t))
		return next(ctx, req)
	}
}

func (t withToken) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", string(t))
		return conn
	}
}

func (t withToken) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
