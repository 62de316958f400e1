package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/api/auth"
	"github.com/millrace/millrace/internal/gen/shop/inventory/v1/inventoryv1connect"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
	typev1 "github.com/millrace/millrace/internal/gen/shop/type/v1"
)

// callTimeout bounds one call; a server stream has its own.
const callTimeout = 60 * time.Second

// clientFlags say which API a command talks to, and as whom.
type clientFlags struct {
	api, token, data string
	user, role       string
	json             bool
}

func (f *clientFlags) register(cmd *cobra.Command, user, role string) {
	p := cmd.PersistentFlags()
	p.StringVar(&f.api, "api", env("MILLRACE_API", ""), "the API's URL; unset: the running `millrace up`")
	p.StringVar(&f.token, "token", env("MILLRACE_TOKEN", ""), "who calls; unset: a token for --as and --role, signed with the key in --data")
	dataFlag(p, &f.data, "the data folder of the running `millrace up`")
	p.StringVar(&f.user, "as", user, "call as this user")
	p.StringVar(&f.role, "role", role, "customer, seller, analyst or operator")
	p.BoolVar(&f.json, "json", false, "print JSON, one message per line")
}

// client is the API as the commands use it.
type client struct {
	orders orderv1connect.OrderServiceClient
	stock  inventoryv1connect.InventoryServiceClient
	json   bool
}

func (f *clientFlags) dial() (*client, error) {
	url, token, err := f.address()
	if err != nil {
		return nil, err
	}
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	bearer := connect.WithInterceptors(auth.WithToken(token))
	return &client{
		orders: orderv1connect.NewOrderServiceClient(hc, url, bearer),
		stock:  inventoryv1connect.NewInventoryServiceClient(hc, url, bearer),
		json:   f.json,
	}, nil
}

// call makes one call, within callTimeout, and explains its error.
func (f *clientFlags) call(cmd *cobra.Command, do func(context.Context, *client) error) error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	return explain(do(ctx, c))
}

// change is call for what changes something.
func (f *clientFlags) change(cmd *cobra.Command, requestID string, do func(context.Context, *client) error) error {
	return f.call(cmd, func(ctx context.Context, c *client) error { return repeatable(do(ctx, c), requestID) })
}

// repeatable adds to an error that leaves open whether the command was carried out how to repeat it without doing it twice.
func repeatable(err error, requestID string) error {
	if err == nil {
		return nil
	}
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnknown, connect.CodeInternal:
		return fmt.Errorf("%w (to repeat it, and not do it twice: --request-id %s)", explain(err), requestID)
	}
	return err
}

func (f *clientFlags) address() (url, token string, err error) {
	url, token = f.api, f.token
	if url == "" {
		if url, err = runningAPI(f.data); err != nil {
			return "", "", err
		}
	}
	if token == "" {
		if token, err = mintToken(f.data, f.user, f.role); err != nil {
			return "", "", err
		}
	}
	return strings.TrimRight(url, "/"), token, nil
}

// show prints a message as one line of JSON, or as people read it.
func (c *client) show(w io.Writer, m proto.Message, people func(io.Writer)) error {
	if !c.json {
		people(w)
		return nil
	}
	b, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// explain turns an error of the API into one sentence, with its reason and the fields that it is about.
func explain(err error) error {
	var ce *connect.Error
	if err == nil || !errors.As(err, &ce) {
		return err
	}
	reason, fields := detailsOf(ce)
	said := ce.Message()
	if len(fields) > 0 && !strings.Contains(said, fields[0]) {
		said += " (" + strings.Join(fields, ", ") + ")"
	}
	if reason == "" {
		return fmt.Errorf("%v: %s", ce.Code(), said)
	}
	return fmt.Errorf("%v %s: %s", ce.Code(), reason, said)
}

func detailsOf(ce *connect.Error) (reason string, fields []string) {
	for _, d := range ce.Details() {
		switch v, _ := d.Value(); v := v.(type) {
		case *errdetails.ErrorInfo:
			reason = v.GetReason()
		case *errdetails.BadRequest:
			for _, f := range v.GetFieldViolations() {
				fields = append(fields, f.GetField())
			}
		}
	}
	return reason, fields
}

// money is an amount as people write it.
func money(m *typev1.Money) string {
	if m == nil {
		return "-"
	}
	return amount(m.GetMinorUnits(), m.GetCurrencyCode())
}

// amount writes minor units. The currencies without any are those of ISO 4217.
func amount(minor int64, currency string) string {
	switch currency {
	case "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF":
		return fmt.Sprintf("%d %s", minor, currency)
	}
	sign := ""
	if minor < 0 {
		sign, minor = "-", -minor
	}
	return fmt.Sprintf("%s%d.%02d %s", sign, minor/100, minor%100, currency)
}
