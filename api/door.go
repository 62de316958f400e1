package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/authn"
	"connectrpc.com/connect"
	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"

	"github.com/millrace/millrace/api/auth"
	"github.com/millrace/millrace/internal/gen/shop/inventory/v1/inventoryv1connect"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
)

const (
	// requestBytesMax is the largest request message; envelopeBytes is what gRPC puts around it.
	requestBytesMax = 1 << 20
	envelopeBytes   = 5
	// bodyWait bounds how long a request's body may take to arrive, and answerWait how long after it the answer may
	// take to be read: longer than any call or stream lives.
	bodyWait   = 10 * time.Second
	answerWait = 90 * time.Second
)

// door is what every call of the shop's services passes before it is decoded: is there room, is there time, who is it,
// is it small enough.
type door struct {
	up      func() bool
	keys    *auth.Keys
	metrics *metrics
	command chan struct{} // commands wait for their outcomes, and reads must not wait for commands
	read    chan struct{}
	stream  chan struct{}
	write   *connect.ErrorWriter
}

// wrap puts the door before a service.
func (d *door) wrap(service http.Handler, options []connect.HandlerOption) http.Handler {
	known := authn.NewMiddleware(d.authenticate, options...)
	return d.bounded(known.Wrap(d.whole(service)))
}

// bounded lets a call in if there is room, and gives it its time.
func (d *door) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		room, kind := d.room(r.URL.Path)
		select {
		case room <- struct{}{}:
		default:
			d.refuse(w, r, refuse(Overloaded, "as many calls are being served as this server serves at once; try again"))
			return
		}
		gauge := d.metrics.inFlight.WithLabelValues(kind)
		gauge.Inc()
		defer func() { gauge.Dec(); <-room }()
		if !d.up() {
			d.refuse(w, r, refuse(Starting, "the server has not caught up with the log yet; try again"))
			return
		}
		// Also for HTTP/1.1, where a deadline outlives its request: each request sets its own.
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			d.refuse(w, r, refusalOf(err))
			return
		}
		next.ServeHTTP(w, r.WithContext(withTraceParent(r.Context(), r.Header.Get("Traceparent"))))
	})
}

func (d *door) room(procedure string) (room chan struct{}, kind string) {
	switch procedure {
	case orderv1connect.OrderServiceWatchOrderProcedure, inventoryv1connect.InventoryServiceWatchAvailabilityProcedure:
		return d.stream, "stream"
	case orderv1connect.OrderServiceGetOrderProcedure, orderv1connect.OrderServiceListOrdersProcedure,
		inventoryv1connect.InventoryServiceGetStockProcedure, inventoryv1connect.InventoryServiceListStockProcedure:
		return d.read, "read"
	}
	return d.command, "command"
}

// authenticate is called before anything of the request is read.
func (d *door) authenticate(_ context.Context, r *http.Request) (any, error) {
	token, err := auth.Bearer(r.Header)
	if err == nil {
		var caller auth.Caller
		if caller, err = d.keys.Verify(token); err == nil {
			return caller, nil
		}
	}
	refused := refusalOf(err)
	d.metrics.refused(refused.reason)
	return nil, refused.wire()
}

// whole reads the request, which is one message in all our calls, so that one that is too large is refused by its
// reason, whatever the protocol, and one that dribbles in does not hold a call for ever.
func (d *door) whole(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clock := http.NewResponseController(w)
		if err := clock.SetReadDeadline(time.Now().Add(bodyWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			d.refuse(w, r, refusalOf(err))
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, requestBytesMax+envelopeBytes+1))
		switch {
		case err != nil:
			d.refuse(w, r, refuse(InvalidArgument, "the request did not arrive whole").because(err))
			return
		case len(body) > requestBytesMax+envelopeBytes:
			d.refuse(w, r, refuse(RequestTooLarge, "a request has at most %d bytes", requestBytesMax).with("bytes_max", requestBytesMax))
			return
		}
		// A deadline that stays would end an HTTP/1.1 call that waits longer than it.
		if err := clock.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
			d.refuse(w, r, refusalOf(err))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func (d *door) refuse(w http.ResponseWriter, r *http.Request, why *refusal) {
	d.metrics.refused(why.reason)
	// The caller may have gone: there is nobody to tell.
	_ = d.write.Write(w, r, why.wire())
}

// callerOf is who calls; the door has let nobody in without a token.
func callerOf(ctx context.Context) auth.Caller {
	return authn.GetInfo(ctx).(auth.Caller)
}

// require is the caller, if they have the role. An operator has them all.
func require(ctx context.Context, role auth.Role) (auth.Caller, error) {
	caller := callerOf(ctx)
	if !caller.Is(role, auth.Operator) {
		return caller, refuse(RoleRequired, "this takes the role %s", role).with("role", role)
	}
	return caller, nil
}

// crossOrigin lets browsers in from these origins. There are no cookies to steal: the token is a header.
func crossOrigin(origins []string, next http.Handler) http.Handler {
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: connectcors.AllowedMethods(),
		AllowedHeaders: slices.Concat(connectcors.AllowedHeaders(), []string{"Authorization", "Traceparent"}),
		ExposedHeaders: slices.Concat(connectcors.ExposedHeaders(), []string{headerReplayed}),
		MaxAge:         int((2 * time.Hour).Seconds()),
	}).Handler(next)
}
