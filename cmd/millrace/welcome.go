package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

// welcome waits until everything is ready, fills the shelves, says what runs where, and places an order to look at.
func (u *up) welcome(ctx context.Context) error {
	url := "http://" + u.api.Addr().String()
	began := time.Now()
	if err := awaitReady(ctx, url); err != nil {
		return stopped(ctx, err)
	}
	if err := u.stack.Announce("api", url); err != nil {
		return err
	}
	operator := clientFlags{api: url, data: u.Data, user: "operator", role: "operator"}
	c, err := operator.dial()
	if err != nil {
		return err
	}
	received, err := c.stockShelves(ctx, u.err)
	if err != nil {
		return stopped(ctx, fmt.Errorf("receive the sample's stock: %w", explain(err)))
	}
	u.table(url)
	fmt.Fprintf(u.out, "\nReady in %.1f s; %d SKUs received their first stock through the API. An order to look at:\n\n", time.Since(began).Seconds(), received)
	if err := u.firstOrder(ctx, url); err != nil {
		return stopped(ctx, explain(err))
	}
	u.hints()
	return nil
}

// stopped is the error, unless it comes from being told to stop.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// awaitReady asks for the health of the API.
func awaitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		err := health(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready within %v: %w", readyWithin, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stockShelves receives the sample's stock for every SKU that never had any, and returns how many those were.
func (c *client) stockShelves(ctx context.Context, progress io.Writer) (int, error) {
	shelves, err := sampleStock()
	if err != nil {
		return 0, err
	}
	have, err := c.knownSKUs(ctx)
	if err != nil {
		return 0, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	received := 0
	for sku, n := range shelves {
		if have[sku] || n == 0 {
			continue
		}
		received++
		g.Go(func() error {
			_, err := c.stock.Receive(ctx, connect.NewRequest(&inventoryv1.ReceiveRequest{RequestId: uuid.Must(uuid.NewV7()).String(), Sku: sku, Quantity: n}))
			if err != nil {
				return fmt.Errorf("%s: %w", sku, err)
			}
			return nil
		})
	}
	if received > 0 {
		fmt.Fprintf(progress, "receiving stock for %d SKUs\n", received)
	}
	return received, g.Wait()
}

func (c *client) knownSKUs(ctx context.Context) (map[string]bool, error) {
	known := map[string]bool{}
	req := &inventoryv1.ListStockRequest{PageSize: 500}
	for {
		res, err := c.stock.ListStock(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		for _, s := range res.Msg.GetStocks() {
			known[s.GetSku()] = s.GetStockVersion() > 0 // 0: in the catalogue, and never received
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.PageToken == "" {
			return known, nil
		}
	}
}

func (u *up) table(url string) {
	w := tabwriter.NewWriter(u.out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "\nPART\tWHERE\tWHAT IT IS\n")
	for _, p := range u.stack.Parts() {
		fmt.Fprintf(w, "%s\t%s\t%s %s\n", p.Name, p.Address, p.Version, kindOf(string(p.Kind), p.Note))
	}
	if u.gateway != nil {
		fmt.Fprintf(w, "Gateway\t%s\tsimulator of Stripe's API; its ledger: /_simulator/ledger\n", u.GatewayURL)
	} else {
		fmt.Fprintf(w, "Gateway\t%s\tnot ours\n", orStripe(u.GatewayURL))
	}
	fmt.Fprintf(w, "API\t%s\tConnect, gRPC, gRPC-Web\n", url)
	if u.metrics != nil {
		fmt.Fprintf(w, "Metrics\thttp://%s/metrics\t/readyz says whether the tables are read back\n", u.metrics.Addr())
	}
	fmt.Fprintf(w, "Roles\tthis process\t%s\n", strings.Join(roleNames(), ", "))
	fmt.Fprintf(w, "Data\t%s\tlog: %s\n", u.Data, logFile)
	w.Flush()
}

func kindOf(kind, note string) string {
	if note == "" {
		return "(" + kind + ")"
	}
	return "(" + kind + ": " + note + ")"
}

func orStripe(url string) string {
	if url == "" {
		return "Stripe"
	}
	return url
}

// firstOrder places an order as a customer would and shows every state it goes through.
func (u *up) firstOrder(ctx context.Context, url string) error {
	ada := clientFlags{api: url, data: u.Data, user: "ada", role: "customer"}
	c, err := ada.dial()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := c.orders.PlaceOrder(ctx, connect.NewRequest(&orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), PaymentMethod: "pm_card_visa",
		Lines:   []*orderv1.PlaceOrderLine{{Sku: sampleSKU, Quantity: 2}},
		Contact: &orderv1.Contact{Email: "ada@example.com"},
	}))
	if err != nil {
		return err
	}
	var last *orderv1.Order
	err = c.watchOrder(ctx, res.Msg.GetOrder().GetId(), func(o *orderv1.Order) error {
		if o.GetVersion() > last.GetVersion() {
			printOrderLine(u.out, o)
		}
		last = o
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	printOrderDetails(u.out, last)
	return nil
}

func (u *up) hints() {
	me := os.Args[0]
	fmt.Fprintf(u.out, `
Try, in another terminal:
  %[1]s order place %[2]s=1 --wait paid
  %[1]s order list
  %[1]s stock watch LAST-ONE
  %[1]s topics cat order.events -f
  %[1]s --help

Ctrl-C stops everything; up again goes on where it stopped.
`, me, sampleSKU)
}
