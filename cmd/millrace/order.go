package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

func orderCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{Use: "order", Short: "Place, show, follow and cancel orders"}
	f.register(cmd, "ada", "customer")
	cmd.AddCommand(orderPlace(&f), orderShow(&f), orderList(&f), orderWatch(&f), orderCancel(&f), orderReplay(&f))
	return cmd
}

func orderPlace(f *clientFlags) *cobra.Command {
	req := &orderv1.PlaceOrderRequest{}
	var email, wait string
	cmd := &cobra.Command{
		Use:     "place SKU[=QUANTITY] ...",
		Short:   "Place an order",
		Example: "  millrace order place CD-CLASSIC=2 --wait paid",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if req.Lines, err = parseLines(args); err != nil {
				return err
			}
			if req.WaitForStatus, err = parseStatus(wait); err != nil {
				return err
			}
			if req.RequestId == "" {
				req.RequestId = uuid.NewString()
			}
			if email != "" {
				req.Contact = &orderv1.Contact{Email: email}
			}
			return f.change(cmd, req.RequestId, func(ctx context.Context, c *client) error {
				res, err := c.orders.PlaceOrder(ctx, connect.NewRequest(req))
				if err != nil {
					return err
				}
				return c.show(cmd.OutOrStdout(), res.Msg, func(w io.Writer) { printOrder(w, res.Msg.GetOrder()) })
			})
		},
	}
	cmd.Flags().StringVar(&req.PaymentMethod, "pay", "pm_card_visa", "the gateway's payment method; `millrace gateway --help` lists test cards")
	cmd.Flags().StringVar(&req.RequestId, "request-id", "", "a UUID; the same one gives the same order (default: a new one)")
	cmd.Flags().StringVar(&email, "email", "", "where to tell the customer")
	cmd.Flags().StringVar(&wait, "wait", "", "answer when the order is `paid` (or another status, or past it)")
	return cmd
}

func orderShow(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show ORDER", Short: "Show one order", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(ctx context.Context, c *client) error {
				res, err := c.orders.GetOrder(ctx, connect.NewRequest(&orderv1.GetOrderRequest{OrderId: args[0]}))
				if err != nil {
					return err
				}
				return c.show(cmd.OutOrStdout(), res.Msg.GetOrder(), func(w io.Writer) { printOrder(w, res.Msg.GetOrder()) })
			})
		},
	}
}

func orderList(f *clientFlags) *cobra.Command {
	req := &orderv1.ListOrdersRequest{}
	cmd := &cobra.Command{
		Use: "list", Short: "List orders, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(ctx context.Context, c *client) error {
				res, err := c.orders.ListOrders(ctx, connect.NewRequest(req))
				if err != nil {
					return err
				}
				return c.show(cmd.OutOrStdout(), res.Msg, func(w io.Writer) {
					for _, o := range res.Msg.GetOrders() {
						printOrderLine(w, o)
					}
					if t := res.Msg.GetNextPageToken(); t != "" {
						fmt.Fprintf(w, "more: --page %s\n", t)
					}
				})
			})
		},
	}
	cmd.Flags().Int32Var(&req.PageSize, "size", 20, "orders per page, at most 100")
	cmd.Flags().StringVar(&req.PageToken, "page", "", "from the page before")
	cmd.Flags().StringVar(&req.UserId, "user", "", "whose; operators only; - for everybody's")
	return cmd
}

func orderCancel(f *clientFlags) *cobra.Command {
	req := &orderv1.CancelOrderRequest{}
	cmd := &cobra.Command{
		Use: "cancel ORDER", Short: "Cancel an order that is not paid yet", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.OrderId = args[0]
			if req.RequestId == "" {
				req.RequestId = uuid.NewString()
			}
			return f.change(cmd, req.RequestId, func(ctx context.Context, c *client) error {
				res, err := c.orders.CancelOrder(ctx, connect.NewRequest(req))
				if err != nil {
					return err
				}
				return c.show(cmd.OutOrStdout(), res.Msg, func(w io.Writer) { printOrder(w, res.Msg.GetOrder()) })
			})
		},
	}
	cmd.Flags().StringVar(&req.RequestId, "request-id", "", "a UUID; the same one gives the same answer (default: a new one)")
	return cmd
}

func orderWatch(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "watch ORDER", Short: "Follow an order until it is final", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.dial()
			if err != nil {
				return err
			}
			return c.watchOrder(cmd.Context(), args[0], func(o *orderv1.Order) error {
				return c.show(cmd.OutOrStdout(), o, func(w io.Writer) { printOrderLine(w, o) })
			})
		},
	}
}

// watchOrder calls each with every state of the order until it is final; it goes on where a stream ended.
func (c *client) watchOrder(ctx context.Context, id string, each func(*orderv1.Order) error) error {
	req := &orderv1.WatchOrderRequest{OrderId: id}
	for ctx.Err() == nil {
		stream, err := c.orders.WatchOrder(ctx, connect.NewRequest(req))
		if err != nil {
			return explain(err)
		}
		for stream.Receive() {
			req.ResumeToken = stream.Msg().GetResumeToken()
			o := stream.Msg().GetOrder()
			if o == nil {
				continue
			}
			if err := each(o); err != nil || final(o.GetStatus()) {
				return err
			}
		}
		if err := stream.Err(); err != nil {
			return explain(err)
		}
	}
	return ctx.Err()
}

// final statuses never change again. PAID is final until refunds come.
func final(s orderv1.OrderStatus) bool {
	switch s {
	case orderv1.OrderStatus_ORDER_STATUS_PAID, orderv1.OrderStatus_ORDER_STATUS_REJECTED, orderv1.OrderStatus_ORDER_STATUS_CANCELLED,
		orderv1.OrderStatus_ORDER_STATUS_PAYMENT_FAILED, orderv1.OrderStatus_ORDER_STATUS_REFUNDED:
		return true
	}
	return false
}

func parseLines(args []string) ([]*orderv1.PlaceOrderLine, error) {
	lines := make([]*orderv1.PlaceOrderLine, 0, len(args))
	for _, a := range args {
		sku, count, found := strings.Cut(a, "=")
		n := int64(1)
		if found {
			var err error
			if n, err = strconv.ParseInt(count, 10, 64); err != nil {
				return nil, usageError(fmt.Sprintf("%q: the quantity after = must be a whole number", a))
			}
		}
		lines = append(lines, &orderv1.PlaceOrderLine{Sku: sku, Quantity: n})
	}
	return lines, nil
}

func parseStatus(s string) (orderv1.OrderStatus, error) {
	if s == "" {
		return orderv1.OrderStatus_ORDER_STATUS_UNSPECIFIED, nil
	}
	v, ok := orderv1.OrderStatus_value["ORDER_STATUS_"+strings.ToUpper(strings.ReplaceAll(s, "-", "_"))]
	if !ok {
		return 0, usageError(fmt.Sprintf("%q is no order status: try paid", s))
	}
	return orderv1.OrderStatus(v), nil
}

func printOrder(w io.Writer, o *orderv1.Order) {
	printOrderLine(w, o)
	printOrderDetails(w, o)
}

// printOrderDetails is what is below the order's first line: its lines and its payment.
func printOrderDetails(w io.Writer, o *orderv1.Order) {
	for _, l := range o.GetLines() {
		fmt.Fprintf(w, "  %2d  %-20s %6d x %12s = %14s  %s", l.GetLine(), l.GetSku(), l.GetQuantity(), money(l.GetUnitPrice()), money(l.GetAmount()), short(l.GetStatus().String(), "LINE_STATUS_"))
		if l.GetReason() != orderv1.OrderReason_ORDER_REASON_UNSPECIFIED {
			fmt.Fprintf(w, " (%s, %d available)", short(l.GetReason().String(), "ORDER_REASON_"), l.GetAvailable())
		}
		fmt.Fprintln(w)
	}
	if p := o.GetPayment(); p.GetStatus() != orderv1.PaymentStatus_PAYMENT_STATUS_UNSPECIFIED {
		fmt.Fprintf(w, "  payment %s %s, charged %s", p.GetIntentId(), short(p.GetStatus().String(), "PAYMENT_STATUS_"), money(p.GetCharged()))
		if p.GetRefunded().GetMinorUnits() != 0 {
			fmt.Fprintf(w, ", given back %s", money(p.GetRefunded()))
		}
		if p.GetDeclineCode() != "" {
			fmt.Fprintf(w, " (%s)", p.GetDeclineCode())
		}
		fmt.Fprintln(w)
	}
}

func printOrderLine(w io.Writer, o *orderv1.Order) {
	payment := ""
	if s := o.GetPayment().GetStatus(); s != orderv1.PaymentStatus_PAYMENT_STATUS_UNSPECIFIED {
		payment = short(s.String(), "PAYMENT_STATUS_")
	}
	fmt.Fprintf(w, "%s  v%-2d  %s  %-16s %-10s %14s", o.GetId(), o.GetVersion(), o.GetUpdateTime().AsTime().Format("2006-01-02 15:04:05.000"), short(o.GetStatus().String(), "ORDER_STATUS_"), payment, money(o.GetTotal()))
	if o.GetReason() != orderv1.OrderReason_ORDER_REASON_UNSPECIFIED {
		fmt.Fprintf(w, "  %s", short(o.GetReason().String(), "ORDER_REASON_"))
	}
	fmt.Fprintln(w)
}

func short(s, prefix string) string { return strings.TrimPrefix(s, prefix) }
