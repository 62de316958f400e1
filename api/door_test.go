package api_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	"github.com/millrace/millrace/internal/gen/shop/inventory/v1/inventoryv1connect"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
)

func TestHealthAndReflection(t *testing.T) {
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, service := range []string{"", orderv1connect.OrderServiceName, inventoryv1connect.InventoryServiceName} {
		if got := status(t, d, service); got != grpchealth.StatusServing {
			t.Errorf("%q is %v", service, got)
		}
	}
	if _, err := grpchealth.NewClient(h2c, d.url).Check(ctx, &grpchealth.CheckRequest{Service: "shop.other.v1.OtherService"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("an unknown service: %v", err)
	}
	stream := reflectorOf(d).NewStream(ctx)
	defer stream.Close()
	services, err := stream.ListServices()
	must(t, err)
	if len(services) != 3 {
		t.Errorf("reflected %v", services)
	}
	files, err := stream.FileContainingSymbol(protoreflect.FullName(orderv1connect.OrderServiceName))
	if err != nil || len(files) == 0 {
		t.Errorf("reflected %v, %v", files, err)
	}
}

func reflectorOf(d *door) *grpcreflect.Client {
	return grpcreflect.NewClient(h2c, d.url, connect.WithGRPC())
}

func status(t *testing.T, d *door, service string) grpchealth.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := grpchealth.NewClient(h2c, d.url, connect.WithGRPC()).Check(ctx, &grpchealth.CheckRequest{Service: service})
	must(t, err)
	return res.Status
}

// TestCrossOrigin is what a browser asks before it calls.
func TestCrossOrigin(t *testing.T) {
	d := openShop(t).open(api.Limits{}).ready()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, d.url+orderv1connect.OrderServiceGetOrderProcedure, nil)
	must(t, err)
	req.Header.Set("Origin", "https://shop.example")
	req.Header.Set("Access-Control-Request-Method", "POST")
	req.Header.Set("Access-Control-Request-Headers", "authorization,connect-protocol-version,content-type,traceparent")
	res, err := http.DefaultClient.Do(req) // HTTP/1.1
	must(t, err)
	defer res.Body.Close()
	if res.Header.Get("Access-Control-Allow-Origin") != "*" || res.Header.Get("Access-Control-Allow-Headers") == "" || res.ProtoMajor != 1 {
		t.Errorf("answered %v %v", res.Proto, res.Header)
	}
}

// TestStarting: until the API has caught up with the log, it neither says that it serves nor takes a command.
func TestStarting(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	d := s.openWith([]string{nowhere(t)}, s.pool, api.Limits{})
	_, err := d.as("ada", auth.Customer).PlaceOrder(t.Context(), connect.NewRequest(buy(line("CUP-BLUE", 1))))
	if r := refusalOf(err); r.code != connect.CodeUnavailable || r.reason != "STARTING" {
		t.Errorf("answered %v %+v", err, r)
	}
	if got := status(t, d, orderv1connect.OrderServiceName); got != grpchealth.StatusNotServing {
		t.Errorf("health is %v", got)
	}
}

// nowhere is an address of this machine where nobody listens.
func nowhere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

func TestKafkaAway(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	ada := d.as("ada", auth.Customer)
	s.cluster.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	began := time.Now()
	_, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
	if r := refusalOf(err); r.code != connect.CodeUnavailable || r.reason != "KAFKA_UNAVAILABLE" || r.metadata["order_id"] == "" {
		t.Errorf("placing: %v %+v", err, r)
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("placing was refused after %v", took)
	}
	began = time.Now()
	_, err = ada.GetOrder(ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: "2b1cbe0c-1f41-4a4e-9d7f-6f1f3a4a1d11"}))
	if r := refusalOf(err); r.code != connect.CodeUnavailable || r.reason != "READ_BEHIND" || time.Since(began) > 8*time.Second {
		t.Errorf("reading: %v %+v after %v", err, r, time.Since(began))
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	away, err := pgxpool.New(t.Context(), "postgres://nobody@"+nowhere(t)+"/nothing")
	must(t, err)
	defer away.Close()
	d := s.openWith(s.brokers, away, api.Limits{}).ready()
	ada, sue := d.as("ada", auth.Customer), d.as("sue", auth.Seller)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	calls := map[string]func() error{
		"place": func() error {
			_, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
			return err
		},
		"list": func() error {
			_, err := ada.ListOrders(ctx, connect.NewRequest(&orderv1.ListOrdersRequest{}))
			return err
		},
		"receive": func() error {
			_, err := sue.Receive(ctx, connect.NewRequest(receive("CUP-BLUE", 1)))
			return err
		},
		"stock": func() error {
			_, err := ada.GetStock(ctx, connect.NewRequest(&inventoryv1.GetStockRequest{Sku: "CUP-BLUE"}))
			return err
		},
	}
	for name, call := range calls {
		began := time.Now()
		err := call()
		if r := refusalOf(err); r.code != connect.CodeUnavailable || r.reason != "POSTGRES_UNAVAILABLE" || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %v %+v after %v", name, err, r, time.Since(began))
		}
		if strings.Contains(err.Error(), "nobody") {
			t.Errorf("%s tells the caller %v", name, err)
		}
	}
	if !strings.Contains(d.log.String(), "nobody") {
		t.Errorf("the log does not say what is wrong: %s", d.log)
	}
}

// TestRoomIsBounded: the call that does not fit is refused at once, and the one inside goes on.
func TestRoomIsBounded(t *testing.T) {
	s := openShop(t)
	d := s.open(api.Limits{Commands: 1, Reads: 1, Streams: 1}).ready()
	ada := d.as("ada", auth.Customer)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	inside := make(chan error, 1)
	var err error
	s.played.asleep(func() {
		go func() {
			_, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
			inside <- err
		}()
		waiting(t, d, 1)
		_, err = ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
		if _, err := ada.ListOrders(ctx, connect.NewRequest(&orderv1.ListOrdersRequest{})); err != nil {
			t.Errorf("a read while no command fits: %v", err)
		}
	})
	if r := refusalOf(err); r.code != connect.CodeResourceExhausted || r.reason != "OVERLOADED" {
		t.Errorf("answered %v %+v", err, r)
	}
	must(t, <-inside)
}

// TestStopFinishesCalls: a call that waits for its outcome when the server is told to stop still gets it.
func TestStopFinishesCalls(t *testing.T) {
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	ada := d.as("ada", auth.Customer)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answered, stopped := make(chan error, 1), make(chan error, 1)
	s.played.asleep(func() {
		go func() {
			_, err := ada.PlaceOrder(ctx, connect.NewRequest(buy(line("CUP-BLUE", 1))))
			answered <- err
		}()
		waiting(t, d, 1)
		go func() { stopped <- d.stop() }()
		eventually(t, "the API is not ready any more", func() bool { return !d.server.Ready() })
	})
	must(t, <-answered)
	must(t, <-stopped)
}

// TestPlainHTTP is what curl would do, over HTTP/1.1, and what it gets when it does it wrong.
func TestPlainHTTP(t *testing.T) {
	d := openShop(t).open(api.Limits{}).ready()
	token, err := d.keys.Sign(auth.Caller{User: "ada", Roles: []auth.Role{auth.Customer}}, time.Hour)
	must(t, err)
	post := func(body []byte, encoding string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+orderv1connect.OrderServiceListOrdersProcedure, bytes.NewReader(body))
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		if encoding != "" {
			req.Header.Set("Content-Encoding", encoding)
		}
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		defer res.Body.Close()
		said, err := io.ReadAll(res.Body)
		must(t, err)
		return res.StatusCode, string(said)
	}
	if code, said := post([]byte(`{"pageSize": 3}`), ""); code != http.StatusOK || said != "{}" {
		t.Errorf("answered %d %s", code, said)
	}
	for name, body := range map[string]string{"broken JSON": `{"pageSize": `, "nothing": "", "a wrong type": `{"pageSize": "many"}`} {
		if code, said := post([]byte(body), ""); code != http.StatusBadRequest || !strings.Contains(said, "google.rpc.ErrorInfo") {
			t.Errorf("%s: %d %s", name, code, said)
		}
	}
	if code, said := post([]byte(`{"pageSize": 3, "fieldOfTomorrow": 1}`), ""); code != http.StatusOK {
		t.Errorf("an unknown field: %d %s", code, said)
	}
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, err = w.Write([]byte(`{"pageToken": "` + strings.Repeat("a", 16<<20) + `"}`))
	must(t, err)
	must(t, w.Close())
	if code, said := post(bomb.Bytes(), "gzip"); code != http.StatusTooManyRequests || !strings.Contains(said, "resource_exhausted") {
		t.Errorf("a bomb of %d bytes: %d %.200s", bomb.Len(), code, said)
	}
}
