package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
)

func stockCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{Use: "stock", Short: "Receive, correct, show and follow stock"}
	f.register(cmd, "operator", "operator")
	cmd.AddCommand(
		stockChange(&f, "receive", "Add goods that arrived", func(ctx context.Context, c *client, id, sku string, n int64) (*inventoryv1.Stock, error) {
			res, err := c.stock.Receive(ctx, connect.NewRequest(&inventoryv1.ReceiveRequest{RequestId: id, Sku: sku, Quantity: n}))
			if err != nil {
				return nil, err
			}
			return res.Msg.GetStock(), nil
		}),
		stockChange(&f, "adjust", "Correct the count by a difference (write -- before a negative one)", func(ctx context.Context, c *client, id, sku string, n int64) (*inventoryv1.Stock, error) {
			res, err := c.stock.Adjust(ctx, connect.NewRequest(&inventoryv1.AdjustRequest{RequestId: id, Sku: sku, Delta: n}))
			if err != nil {
				return nil, err
			}
			return res.Msg.GetStock(), nil
		}),
		stockSet(&f), stockShow(&f), stockWatch(&f),
	)
	return cmd
}

// stockChange is a command of the form `SKU NUMBER`.
func stockChange(f *clientFlags, name, about string, change func(ctx context.Context, c *client, requestID, sku string, n int64) (*inventoryv1.Stock, error)) *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use: name + " SKU NUMBER", Short: about, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return usageError(fmt.Sprintf("%q: a whole number is needed", args[1]))
			}
			if id == "" {
				id = uuid.Must(uuid.NewV7()).String()
			}
			return f.change(cmd, id, func(ctx context.Context, c *client) error {
				s, err := change(ctx, c, id, args[0], n)
				if err != nil {
					return err
				}
				return c.show(cmd.OutOrStdout(), s, func(w io.Writer) { printStock(w, s) })
			})
		},
	}
	cmd.Flags().StringVar(&id, "request-id", "", "a UUIDv7; the same one gives the same answer (default: a new one)")
	return cmd
}

func stockSet(f *clientFlags) *cobra.Command {
	var ifVersion int64
	cmd := stockChange(f, "set", "Set what is on hand", func(ctx context.Context, c *client, id, sku string, n int64) (*inventoryv1.Stock, error) {
		req := &inventoryv1.SetQuantityRequest{RequestId: id, Sku: sku, Quantity: n}
		if ifVersion >= 0 {
			req.IfVersion = &ifVersion
		}
		res, err := c.stock.SetQuantity(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetStock(), nil
	})
	cmd.Flags().Int64Var(&ifVersion, "if-version", -1, "only if the stock version is still this one")
	return cmd
}

func stockShow(f *clientFlags) *cobra.Command {
	req := &inventoryv1.ListStockRequest{}
	cmd := &cobra.Command{
		Use: "show [SKU]", Short: "Show one SKU, or all", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(ctx context.Context, c *client) error {
				if len(args) == 1 {
					res, err := c.stock.GetStock(ctx, connect.NewRequest(&inventoryv1.GetStockRequest{Sku: args[0]}))
					if err != nil {
						return err
					}
					return c.show(cmd.OutOrStdout(), res.Msg.GetStock(), func(w io.Writer) { printStock(w, res.Msg.GetStock()) })
				}
				res, err := c.stock.ListStock(ctx, connect.NewRequest(req))
				if err != nil {
					return err
				}
				return c.show(cmd.OutOrStdout(), res.Msg, func(w io.Writer) {
					for _, s := range res.Msg.GetStocks() {
						printStock(w, s)
					}
					if t := res.Msg.GetNextPageToken(); t != "" {
						fmt.Fprintf(w, "more: --page %s\n", t)
					}
				})
			})
		},
	}
	cmd.Flags().Int32Var(&req.PageSize, "size", 100, "SKUs per page, at most 500")
	cmd.Flags().StringVar(&req.PageToken, "page", "", "from the page before")
	cmd.Flags().StringVar(&req.SkuPrefix, "prefix", "", "only SKUs that begin like this")
	return cmd
}

func stockWatch(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "watch SKU ...", Short: "Follow SKUs until Ctrl-C", Args: cobra.RangeArgs(1, 100),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.dial()
			if err != nil {
				return err
			}
			req := &inventoryv1.WatchAvailabilityRequest{Skus: args}
			for cmd.Context().Err() == nil {
				if err := c.watchStock(cmd, req); err != nil && cmd.Context().Err() == nil {
					return explain(err)
				}
			}
			return nil
		},
	}
}

// watchStock follows one stream to its end and leaves the token to go on with in the request.
func (c *client) watchStock(cmd *cobra.Command, req *inventoryv1.WatchAvailabilityRequest) error {
	stream, err := c.stock.WatchAvailability(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	for stream.Receive() {
		req.ResumeToken = stream.Msg().GetResumeToken()
		s := stream.Msg().GetStock()
		if s == nil {
			continue
		}
		if err := c.show(cmd.OutOrStdout(), s, func(w io.Writer) { printStock(w, s) }); err != nil {
			return err
		}
	}
	return stream.Err()
}

func printStock(w io.Writer, s *inventoryv1.Stock) {
	fmt.Fprintf(w, "%-24s available %10d   on hand %10d   reserved %8d   v%d, stock version %d\n",
		s.GetSku(), s.GetAvailable(), s.GetOnHand(), s.GetReserved(), s.GetVersion(), s.GetStockVersion())
}
