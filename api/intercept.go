package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

const (
	// callWait is the longest that a unary call may take, and outcomeWait the longest that one waits for an outcome.
	callWait    = 60 * time.Second
	outcomeWait = 60 * time.Second
	// answerEarly is how long before the caller's deadline we answer, so that the answer still arrives: a tenth of
	// the time, at most this.
	answerEarly = 250 * time.Millisecond
)

// interceptor is what happens around every call: time is bounded and measured, the request is validated, the answer says
// nothing that is not for its caller, and every error leaves as a refusal of the table.
type interceptor struct {
	log      *slog.Logger
	metrics  *metrics
	validate protovalidate.Validator
}

func (i *interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		ctx, cancel := withinTime(ctx)
		defer cancel()
		err = i.around(req.Spec(), func() error {
			if err := i.valid(req.Any()); err != nil {
				return err
			}
			res, err = next(ctx, req)
			return err
		})
		if err == nil && !operates(ctx) {
			discreet(res.Any())
		}
		if err == nil && req.Spec().IdempotencyLevel == connect.IdempotencyNoSideEffects {
			// Reads may be GETs, but they show one caller's things as they are now.
			res.Header().Set("Cache-Control", "private, no-store")
			res.Header().Set("Vary", "Authorization")
		}
		return res, err
	}
}

func (i *interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i *interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return i.around(conn.Spec(), func() error { return next(ctx, guarded{conn, i, operates(ctx)}) })
	}
}

// guarded does for each message of a stream what is done for the messages of a unary call.
type guarded struct {
	connect.StreamingHandlerConn
	*interceptor
	operator bool
}

func (g guarded) Receive(m any) error {
	if err := g.StreamingHandlerConn.Receive(m); err != nil {
		return err
	}
	return g.valid(m)
}

func (g guarded) Send(m any) error {
	if !g.operator {
		discreet(m)
	}
	return g.StreamingHandlerConn.Send(m)
}

// around measures a call and turns its error into one of the table.
func (i *interceptor) around(spec connect.Spec, call func() error) error {
	began := time.Now()
	err := call()
	if err == nil {
		i.metrics.called(spec.Procedure, "ok", began)
		return nil
	}
	var wired *connect.Error
	if !errors.As(err, &wired) { // connect's own: what could not be read
		wired = i.told(spec.Procedure, err)
	}
	i.metrics.called(spec.Procedure, wired.Code().String(), began)
	return wired
}

// told is the error as it is sent. What it hides is logged here, once.
func (i *interceptor) told(procedure string, err error) *connect.Error {
	r := refusalOf(err)
	if r.cause != nil {
		i.log.Warn("refused", "procedure", procedure, "reason", r.reason, "error", r.cause)
	}
	i.metrics.refused(r.reason)
	return r.wire()
}

// withinTime bounds a call by callWait, and ends it a little before the caller stops listening.
func withinTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithTimeout(ctx, callWait)
	}
	left := time.Until(deadline)
	return context.WithTimeout(ctx, min(left-min(left/10, answerEarly), callWait))
}

// valid checks a request by the rules in the schema.
func (i *interceptor) valid(m any) error {
	message := m.(proto.Message)
	if err := decoded(message); err != nil {
		return err
	}
	err := i.validate.Validate(message)
	var broken *protovalidate.ValidationError
	if err == nil || !errors.As(err, &broken) {
		return err
	}
	r := refuse(InvalidArgument, "")
	var said []string
	for _, v := range broken.Violations {
		f := fieldError{
			path:   protovalidate.FieldPathString(v.Proto.GetField()),
			reason: strings.ToUpper(strings.ReplaceAll(v.Proto.GetRuleId(), ".", "_")),
			detail: v.Proto.GetMessage(),
		}
		r.fields = append(r.fields, f)
		said = append(said, f.path+": "+f.detail)
	}
	r.message = strings.Join(said, "; ")
	return r
}

// panicked is a bug of ours: logged with its stack, counted, and told as INTERNAL.
func (i *interceptor) panicked(_ context.Context, spec connect.Spec, _ http.Header, value any) error {
	i.metrics.panics.Inc()
	return refuse(Internal, "something is wrong with the server").because(fmt.Errorf("%s: panic: %v\n%s", spec.Procedure, value, debug.Stack()))
}
