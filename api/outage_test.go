package api_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
)

// TestServersComeBack: while a server hangs or is dead, calls say so in bounded time; when it is back, the same API
// goes on, and the request that was refused leads to one order.
func TestServersComeBack(t *testing.T) {
	t.Parallel()
	stack := localtest.Stack(t, local.Options{Postgres: local.PostgresOptions{Off: true}})
	client, err := kgo.NewClient(kgo.SeedBrokers(stack.Kafka()...))
	must(t, err)
	defer client.Close()
	table := topics.New(topics.Options{Partitions: 3})
	made, err := kadm.NewClient(client).CreateTopics(t.Context(), table.Partitions, 1, nil, names(table)...)
	must(t, err)
	must(t, made.Error())
	s := openShopOn(t, stack.Kafka(), table)
	ada := s.open(api.Limits{}).ready().as("ada", auth.Customer)
	place := func(ask *orderv1.PlaceOrderRequest) (*orderv1.Order, error) {
		res, err := ada.PlaceOrder(t.Context(), within(15*time.Second, ask))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetOrder(), nil
	}
	refused := func(what string, ask *orderv1.PlaceOrderRequest) {
		t.Helper()
		began := time.Now()
		_, err := place(ask)
		if r := refusalOf(err); r.code != connect.CodeUnavailable || r.reason != "KAFKA_UNAVAILABLE" || time.Since(began) > 14*time.Second {
			t.Fatalf("%s: %v %+v after %v", what, err, r, time.Since(began))
		}
	}
	once := func(what string, ask *orderv1.PlaceOrderRequest) {
		t.Helper()
		var order *orderv1.Order
		eventually(t, what, func() bool { order, err = place(ask); return err == nil })
		placed := 0
		for _, c := range s.played.commands(order.GetId()) {
			if c.GetRequestId() == ask.GetRequestId() {
				placed++
			}
		}
		if placed == 0 || order.GetVersion() != int64(placed) {
			t.Fatalf("%s: %d commands led to version %d", what, placed, order.GetVersion())
		}
	}
	once("at the beginning", buy(line("CUP-BLUE", 1)))

	ask := buy(line("CUP-BLUE", 1))
	must(t, stack.Broker(0).Pause())
	refused("Kafka hangs", ask)
	must(t, stack.Broker(0).Resume())
	once("after Kafka hung", ask)

	ask = buy(line("CUP-BLUE", 1))
	must(t, stack.Broker(0).Kill9())
	refused("Kafka is dead", ask)
	must(t, stack.Broker(0).Start(t.Context()))
	once("after Kafka was dead", ask)
}

// TestATopicMadeAnewEndsTheAPI: what it reads of is gone, and franz-go never reads of another topic of the same name.
func TestATopicMadeAnewEndsTheAPI(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	d := s.open(api.Limits{}).ready()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...))
	must(t, err)
	defer client.Close()
	adm := kadm.NewClient(client)
	_, err = adm.DeleteTopic(t.Context(), s.table.OrderEvents.Name)
	must(t, err)
	_, err = adm.CreateTopic(t.Context(), s.table.Partitions, 1, nil, s.table.OrderEvents.Name)
	must(t, err)
	eventually(t, "the API ends", func() bool { return !d.server.Ready() })
	if err := d.stop(); err == nil || !strings.Contains(err.Error(), "not the log it was") {
		t.Errorf("it ended with %v", err)
	}
	d.stop = func() error { return nil }
}
