package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// TestAnErrorSaysWhere: a person who ordered ten things is told which of them is wrong.
func TestAnErrorSaysWhere(t *testing.T) {
	refused := func(message string) error {
		e := connect.NewError(connect.CodeNotFound, errors.New(message))
		for _, d := range []*errdetails.BadRequest_FieldViolation{{Field: "lines[1].sku"}, {Field: "lines[3].sku"}} {
			detail, err := connect.NewErrorDetail(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{d}})
			if err != nil {
				t.Fatal(err)
			}
			e.AddDetail(detail)
		}
		info, err := connect.NewErrorDetail(&errdetails.ErrorInfo{Reason: "UNKNOWN_SKU"})
		if err != nil {
			t.Fatal(err)
		}
		e.AddDetail(info)
		return e
	}
	for message, want := range map[string]string{
		"no such SKU":                     "not_found UNKNOWN_SKU: no such SKU (lines[1].sku, lines[3].sku)",
		"lines[1].sku: must be something": "not_found UNKNOWN_SKU: lines[1].sku: must be something",
	} {
		if got := explain(refused(message)).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := explain(errors.New("no network")); err.Error() != "no network" {
		t.Errorf("another error became %v", err)
	}
}

// TestAnOpenOutcomeSaysHowToRepeat: whoever does not know whether goods were received must not receive them twice.
func TestAnOpenOutcomeSaysHowToRepeat(t *testing.T) {
	for code, open := range map[connect.Code]bool{
		connect.CodeUnavailable: true, connect.CodeDeadlineExceeded: true, connect.CodeInternal: true, connect.CodeUnknown: true,
		connect.CodeNotFound: false, connect.CodeInvalidArgument: false, connect.CodeFailedPrecondition: false, connect.CodeUnauthenticated: false,
	} {
		err := explain(repeatable(connect.NewError(code, errors.New("no")), "ID"))
		if says := strings.Contains(err.Error(), "--request-id ID"); says != open {
			t.Errorf("%v: %v", code, err)
		}
	}
	if err := repeatable(nil, "ID"); err != nil {
		t.Error(err)
	}
}

// TestWhatIsNotUnderstoodIsRefused: cobra answers a misspelled subcommand with help and success.
func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, line := range []string{"topics aply", "stock recieve X 5", "nope", "order place", "order show a b", "order list --nope", "stack dwn"} {
		var out, said bytes.Buffer
		if code := run(t.Context(), strings.Fields(line), &out, &said); code != 2 || said.Len() == 0 {
			t.Errorf("%s: %d, %q", line, code, said.String())
		}
	}
	for _, line := range []string{"", "order", "topics --help"} {
		var out, said bytes.Buffer
		if code := run(t.Context(), strings.Fields(line), &out, &said); code != 0 || out.Len() == 0 {
			t.Errorf("%q: %d, %q", line, code, said.String())
		}
	}
}
