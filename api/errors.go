package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/api/auth"
)

// errorDomain is google.rpc.ErrorInfo.domain of every error.
const errorDomain = "shop"

// Reason is google.rpc.ErrorInfo.reason: why a call is refused, in one word that programs may rely on.
type Reason string

// Every reason there is. What each means for the caller is in codes.
const (
	InvalidArgument     Reason = "INVALID_ARGUMENT" // the fields are in google.rpc.BadRequest
	InvalidPageToken    Reason = "INVALID_PAGE_TOKEN"
	InvalidResumeToken  Reason = "INVALID_RESUME_TOKEN"
	RequestIDNotV7      Reason = "REQUEST_ID_NOT_V7"
	RequestFromFuture   Reason = "REQUEST_FROM_FUTURE"
	RequestTooOld       Reason = "REQUEST_TOO_OLD"
	RequestTooLarge     Reason = "REQUEST_TOO_LARGE"
	IdempotencyMismatch Reason = "IDEMPOTENCY_MISMATCH"

	TokenMissing          = Reason(auth.TokenMissing)
	TokenMalformed        = Reason(auth.TokenMalformed)
	TokenExpired          = Reason(auth.TokenExpired)
	TokenInvalid          = Reason(auth.TokenInvalid)
	RoleRequired   Reason = "ROLE_REQUIRED"
	NotYourSKU     Reason = "NOT_YOUR_SKU"
	NotYourUser    Reason = "NOT_YOUR_USER"

	NotFound        Reason = "NOT_FOUND"
	UnknownSKU      Reason = "UNKNOWN_SKU"
	OfferInactive   Reason = "OFFER_INACTIVE"
	MixedCurrencies Reason = "MIXED_CURRENCIES"
	AmountTooLarge  Reason = "AMOUNT_TOO_LARGE"
	PriceChanged    Reason = "PRICE_CHANGED"
	StateConflict   Reason = "STATE_CONFLICT"
	TooManyCommands Reason = "TOO_MANY_COMMANDS"
	StaleVersion    Reason = "STALE_VERSION"
	BelowReserved   Reason = "BELOW_RESERVED"
	TooMuchStock    Reason = "TOO_MUCH_STOCK"

	Starting            Reason = "STARTING"
	Overloaded          Reason = "OVERLOADED"
	KafkaUnavailable    Reason = "KAFKA_UNAVAILABLE"
	PostgresUnavailable Reason = "POSTGRES_UNAVAILABLE"
	ReadBehind          Reason = "READ_BEHIND"         // a copy has not caught up with the log in time
	VersionNotReached   Reason = "VERSION_NOT_REACHED" // min_version did not come in time
	OutcomePending      Reason = "OUTCOME_PENDING"     // the log has the command; its outcome did not come in time
	Canceled            Reason = "CANCELED"
	DeadlineExceeded    Reason = "DEADLINE_EXCEEDED"
	Internal            Reason = "INTERNAL"
)

// codes is the table of all errors: the code that goes with each reason.
var codes = map[Reason]connect.Code{
	InvalidArgument:     connect.CodeInvalidArgument,
	InvalidPageToken:    connect.CodeInvalidArgument,
	InvalidResumeToken:  connect.CodeInvalidArgument,
	RequestIDNotV7:      connect.CodeInvalidArgument,
	RequestFromFuture:   connect.CodeInvalidArgument,
	RequestTooOld:       connect.CodeFailedPrecondition,
	RequestTooLarge:     connect.CodeResourceExhausted,
	IdempotencyMismatch: connect.CodeAlreadyExists,

	TokenMissing:   connect.CodeUnauthenticated,
	TokenMalformed: connect.CodeUnauthenticated,
	TokenExpired:   connect.CodeUnauthenticated,
	TokenInvalid:   connect.CodeUnauthenticated,
	RoleRequired:   connect.CodePermissionDenied,
	NotYourSKU:     connect.CodePermissionDenied,
	NotYourUser:    connect.CodePermissionDenied,

	NotFound:        connect.CodeNotFound,
	UnknownSKU:      connect.CodeNotFound,
	OfferInactive:   connect.CodeFailedPrecondition,
	MixedCurrencies: connect.CodeFailedPrecondition,
	AmountTooLarge:  connect.CodeFailedPrecondition,
	PriceChanged:    connect.CodeFailedPrecondition,
	StateConflict:   connect.CodeFailedPrecondition,
	TooManyCommands: connect.CodeResourceExhausted,
	StaleVersion:    connect.CodeAborted,
	BelowReserved:   connect.CodeFailedPrecondition,
	TooMuchStock:    connect.CodeFailedPrecondition,

	Starting:            connect.CodeUnavailable,
	Overloaded:          connect.CodeResourceExhausted,
	KafkaUnavailable:    connect.CodeUnavailable,
	PostgresUnavailable: connect.CodeUnavailable,
	ReadBehind:          connect.CodeUnavailable,
	VersionNotReached:   connect.CodeUnavailable,
	OutcomePending:      connect.CodeDeadlineExceeded,
	Canceled:            connect.CodeCanceled,
	DeadlineExceeded:    connect.CodeDeadlineExceeded,
	Internal:            connect.CodeInternal,
}

// refusal is an error for the caller. Its cause, if any, is for us: it is logged and never sent.
type refusal struct {
	reason   Reason
	message  string
	fields   []fieldError
	metadata map[string]string
	cause    error
}

// fieldError says what is wrong with one field of the request.
type fieldError struct {
	path   string // e.g. "lines[2].sku"
	reason string // in capitals, e.g. "INT64_LTE"
	detail string
}

func (r *refusal) Error() string { return string(r.reason) + ": " + r.message }
func (r *refusal) Unwrap() error { return r.cause }

func refuse(reason Reason, format string, args ...any) *refusal {
	return &refusal{reason: reason, message: fmt.Sprintf(format, args...)}
}

// at names the field that the refusal is about.
func (r *refusal) at(path string) *refusal {
	r.fields = append(r.fields, fieldError{path: path, reason: string(r.reason), detail: r.message})
	return r
}

// with adds metadata, as pairs of key and value.
func (r *refusal) with(pairs ...any) *refusal {
	if r.metadata == nil {
		r.metadata = make(map[string]string, len(pairs)/2)
	}
	for i := 0; i < len(pairs); i += 2 {
		r.metadata[pairs[i].(string)] = fmt.Sprint(pairs[i+1])
	}
	return r
}

func (r *refusal) because(cause error) *refusal {
	r.cause = cause
	return r
}

// refusalOf is any error as a refusal. One that nobody has named is ours: INTERNAL, and its words stay here.
func refusalOf(err error) *refusal {
	var r *refusal
	var token auth.Refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.As(err, &token):
		return refuse(Reason(token.Reason), "%s", token.Detail)
	case errors.Is(err, context.Canceled):
		return refuse(Canceled, "the caller has gone")
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(DeadlineExceeded, "the deadline passed")
	}
	return refuse(Internal, "something is wrong with the server").because(err)
}

// wire is the refusal as it is sent: its code, google.rpc.ErrorInfo and, if fields are named, google.rpc.BadRequest.
func (r *refusal) wire() *connect.Error {
	e := connect.NewError(codes[r.reason], errors.New(r.message))
	attach(e, &errdetails.ErrorInfo{Reason: string(r.reason), Domain: errorDomain, Metadata: r.metadata})
	if len(r.fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range r.fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.path, Reason: f.reason, Description: f.detail})
		}
		attach(e, bad)
	}
	return e
}

func attach(e *connect.Error, detail proto.Message) {
	d, err := connect.NewErrorDetail(detail)
	if err != nil {
		panic(fmt.Sprintf("api: %v", err)) // only invalid UTF-8, which the door refuses
	}
	e.AddDetail(d)
}
