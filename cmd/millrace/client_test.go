package main

import (
	"errors"
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
