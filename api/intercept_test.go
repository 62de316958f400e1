package api

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
)

// broken is a service with bugs.
type broken struct {
	orderv1connect.UnimplementedOrderServiceHandler
}

func (broken) GetOrder(context.Context, *connect.Request[orderv1.GetOrderRequest]) (*connect.Response[orderv1.GetOrderResponse], error) {
	panic("the secret of the house")
}

func (broken) ListOrders(context.Context, *connect.Request[orderv1.ListOrdersRequest]) (*connect.Response[orderv1.ListOrdersResponse], error) {
	return nil, errors.New("the secret of the house")
}

// TestBugsAreLoggedAndNotTold: a panic, and an error that nobody named.
func TestBugsAreLoggedAndNotTold(t *testing.T) {
	validator, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	none := func() float64 { return 0 }
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, none, none)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	around := &interceptor{log: slog.New(slog.NewTextHandler(&log, nil)), metrics: m, validate: validator}
	mux := http.NewServeMux()
	mux.Handle(orderv1connect.NewOrderServiceHandler(broken{}, handlerOptions(around)...))
	server := httptest.NewServer(mux)
	defer server.Close()
	client := orderv1connect.NewOrderServiceClient(server.Client(), server.URL)
	_, panicked := client.GetOrder(t.Context(), connect.NewRequest(&orderv1.GetOrderRequest{OrderId: someRequest}))
	_, unnamed := client.ListOrders(t.Context(), connect.NewRequest(&orderv1.ListOrdersRequest{}))
	for name, err := range map[string]error{"panic": panicked, "unnamed error": unnamed} {
		var e *connect.Error
		if !errors.As(err, &e) || e.Code() != connect.CodeInternal || strings.Contains(e.Message(), "secret") || len(e.Details()) != 1 {
			t.Fatalf("%s: told %v", name, err)
		}
		if v, err := e.Details()[0].Value(); err != nil || v.(*errdetails.ErrorInfo).GetReason() != "INTERNAL" {
			t.Errorf("%s: told %v, %v", name, v, err)
		}
	}
	if said := log.String(); strings.Count(said, "the secret of the house") != 2 || !strings.Contains(said, "intercept_test.go") {
		t.Errorf("logged %s", said)
	}
}
