package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	orderv1 "github.com/millrace/millrace/internal/gen/shop/order/v1"
)

const (
	maxReplayBytes  = 256 << 20
	maxShownRefused = 10
	// replayPatience is how long one line is tried again while the API says UNAVAILABLE or the deadline passes.
	replayPatience = 5 * time.Minute
)

// replay places the orders of a purchase log through the API. Its request IDs come from the file's hash and the
// line, so running it again places nothing twice.
type replay struct {
	file                    string
	format, separator       string
	header                  bool
	customer, quantity, sku column
	constantSKU, pay        string
	userPrefix              string
	perSecond, limit        int
	concurrency             int
	wait                    string
}

func orderReplay(f *clientFlags) *cobra.Command {
	r := &replay{}
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Place the orders of a purchase log, each line once however often it is run",
		Long: `Place the orders of a purchase log through the API: one order a line.

A column is the number of a field (from 1), a name when the file has a --header, or FROM-TO in bytes (from 1).
Run it again, after a crash or on purpose: the same line of the same file is the same order.`,
		Example: "  millrace order replay purchases.csv --header --customer customer_id --sku-column sku --quantity units\n" +
			"  millrace order replay cdnow_sample.txt --format columns --customer 1 --quantity 4 --sku CD-CLASSIC",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.file = args[0]
			if !cmd.Flags().Changed("as") && !cmd.Flags().Changed("role") { // customers, the default of `order`, cannot order for others
				f.user, f.role = "operator", "operator"
			}
			c, err := f.dial()
			if err != nil {
				return err
			}
			return r.run(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&r.format, "format", "csv", "csv, or columns: fields between white space")
	fl.StringVar(&r.separator, "separator", ",", "between the fields of a csv")
	fl.BoolVar(&r.header, "header", false, "the first line names the columns")
	fl.Var(&r.customer, "customer", "the column that says who bought")
	fl.Var(&r.quantity, "quantity", "the column that says how many")
	fl.Var(&r.sku, "sku-column", "the column that says what")
	fl.StringVar(&r.constantSKU, "sku", "", "the SKU of every line, instead of --sku-column")
	fl.StringVar(&r.pay, "pay", "pm_card_visa", "the gateway's payment method")
	fl.StringVar(&r.userPrefix, "user-prefix", "customer-", "put before the customer to make the user")
	fl.StringVar(&r.wait, "wait", "paid", "count an order as done when it is paid (or another status)")
	fl.IntVar(&r.perSecond, "rate", 0, "orders per second at most; 0: as fast as the answers come")
	fl.IntVar(&r.concurrency, "concurrency", 64, "orders under way at once, 1 to 1,000")
	fl.IntVar(&r.limit, "limit", 0, "place only the first so many lines; 0: all")
	return cmd
}

// purchase is one line of the log.
type purchase struct {
	line     int
	customer string
	sku      string
	quantity int64
}

// tally counts what became of the lines.
type tally struct {
	mu       sync.Mutex
	orders   map[orderv1.OrderStatus]int
	units    int64
	replayed int
	minor    map[string]int64
	refused  []string
	refusals int
}

func (r *replay) run(ctx context.Context, c *client, out, progress io.Writer) error {
	want, err := r.check()
	if err != nil {
		return err
	}
	raw, err := readLimited(r.file, maxReplayBytes)
	if err != nil {
		return err
	}
	purchases, err := r.parse(raw)
	if err != nil {
		return err
	}
	t := &tally{orders: map[orderv1.OrderStatus]int{}, minor: map[string]int64{}}
	sum := sha256.Sum256(raw)
	began := time.Now()
	if err := r.place(ctx, c, purchases, sum[:], want, t, progress); err != nil {
		return err
	}
	t.print(out, r.file, len(purchases), time.Since(began))
	if t.refusals > 0 {
		return fmt.Errorf("%d of %d lines were refused", t.refusals, len(purchases))
	}
	return nil
}

func (r *replay) check() (orderv1.OrderStatus, error) {
	switch {
	case r.format != "csv" && r.format != "columns":
		return 0, usageError("--format is csv or columns")
	case len(r.separator) != 1:
		return 0, usageError("--separator is one character")
	case r.customer == "" || r.quantity == "":
		return 0, usageError("--customer and --quantity say which columns to read")
	case (r.sku == "") == (r.constantSKU == ""):
		return 0, usageError("give either --sku-column or --sku")
	case r.concurrency < 1 || r.concurrency > 1000:
		return 0, usageError("--concurrency is 1 to 1,000")
	case r.perSecond < 0 || r.limit < 0:
		return 0, usageError("--rate and --limit are not negative")
	}
	return parseStatus(r.wait)
}

func (r *replay) place(ctx context.Context, c *client, ps []purchase, hash []byte, want orderv1.OrderStatus, t *tally, progress io.Writer) error {
	bar := progressbar.NewOptions(len(ps), progressbar.OptionSetWriter(progress), progressbar.OptionSetDescription("orders"),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("orders"),
		progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionOnCompletion(func() { fmt.Fprintln(progress) }))
	pace := rate.NewLimiter(rate.Inf, 1)
	if r.perSecond > 0 {
		pace = rate.NewLimiter(rate.Limit(r.perSecond), 1)
	}
	g, calls := errgroup.WithContext(ctx)
	g.SetLimit(r.concurrency)
	for _, p := range ps {
		if err := pace.Wait(calls); err != nil {
			break // g.Wait says why
		}
		g.Go(func() error {
			res, err := r.placeOne(calls, c, p, hash, want)
			if err != nil && !refusal(err) {
				return fmt.Errorf("%s line %d: %w", r.file, p.line, explain(err))
			}
			t.add(p, res, err)
			return bar.Add(1)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// placeOne tries until it has an answer: the request ID makes that safe.
func (r *replay) placeOne(ctx context.Context, c *client, p purchase, hash []byte, want orderv1.OrderStatus) (*orderv1.PlaceOrderResponse, error) {
	req := &orderv1.PlaceOrderRequest{
		RequestId:     uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%x/%d", hash, p.line)).String(),
		Lines:         []*orderv1.PlaceOrderLine{{Sku: p.sku, Quantity: p.quantity}},
		PaymentMethod: r.pay,
		UserId:        r.userPrefix + p.customer,
		WaitForStatus: want,
	}
	until := time.Now().Add(replayPatience)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		res, err := c.orders.PlaceOrder(call, connect.NewRequest(req))
		cancel()
		if err == nil {
			return res.Msg, nil
		}
		if !passing(err) || ctx.Err() != nil || time.Now().After(until) {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// passing errors may be gone at the next try.
func passing(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeResourceExhausted, connect.CodeAborted:
		return true
	}
	return false
}

// refusal says whether the API understood the line and said no to it.
func refusal(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeOutOfRange:
		return true
	}
	return false
}

func (t *tally) add(p purchase, res *orderv1.PlaceOrderResponse, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.refusals++
		if len(t.refused) < maxShownRefused {
			t.refused = append(t.refused, fmt.Sprintf("line %d: %v", p.line, explain(err)))
		}
		return
	}
	o := res.GetOrder()
	t.orders[o.GetStatus()]++
	if res.GetReplayed() {
		t.replayed++
	}
	switch o.GetStatus() {
	case orderv1.OrderStatus_ORDER_STATUS_REJECTED, orderv1.OrderStatus_ORDER_STATUS_CANCELLED, orderv1.OrderStatus_ORDER_STATUS_PAYMENT_FAILED,
		orderv1.OrderStatus_ORDER_STATUS_CANCELLING:
		return // nothing is sold
	}
	for _, l := range o.GetLines() {
		t.units += l.GetQuantity()
	}
	t.minor[o.GetTotal().GetCurrencyCode()] += o.GetTotal().GetMinorUnits()
}

func (t *tally) print(w io.Writer, file string, lines int, took time.Duration) {
	fmt.Fprintf(w, "%s: %d lines in %.1f s, %.0f orders/s\n", file, lines, took.Seconds(), float64(lines)/took.Seconds())
	for s, name := range orderv1.OrderStatus_name {
		if n := t.orders[orderv1.OrderStatus(s)]; n > 0 {
			fmt.Fprintf(w, "  %6d %s\n", n, short(name, "ORDER_STATUS_"))
		}
	}
	fmt.Fprintf(w, "  %6d units", t.units)
	for currency, minor := range t.minor {
		fmt.Fprintf(w, ", %s", amount(minor, currency))
	}
	fmt.Fprintln(w)
	if t.replayed > 0 {
		fmt.Fprintf(w, "  %6d had been placed before\n", t.replayed)
	}
	if t.refusals > 0 {
		fmt.Fprintf(w, "  %6d refused\n", t.refusals)
		for _, s := range t.refused {
			fmt.Fprintf(w, "         %s\n", s)
		}
	}
}

// parse reads the whole log before anything is placed: one bad line, and nothing is.
func (r *replay) parse(raw []byte) ([]purchase, error) {
	rows, err := r.rows(raw)
	if err != nil {
		return nil, err
	}
	names := map[string]int{}
	first := 1
	if r.header && len(rows) > 0 {
		for i, n := range rows[0].fields {
			names[n] = i
		}
		rows, first = rows[1:], 2
	}
	ps := make([]purchase, 0, len(rows))
	for i, row := range rows {
		if r.limit > 0 && len(ps) == r.limit {
			break
		}
		p, err := r.purchase(row, names)
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", r.file, i+first, err)
		}
		p.line = i + first
		ps = append(ps, p)
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("%s has no purchases", r.file)
	}
	return ps, nil
}

func (r *replay) purchase(row row, names map[string]int) (purchase, error) {
	customer, err := r.customer.of(row, names)
	if err != nil {
		return purchase{}, fmt.Errorf("customer: %w", err)
	}
	count, err := r.quantity.of(row, names)
	if err != nil {
		return purchase{}, fmt.Errorf("quantity: %w", err)
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return purchase{}, fmt.Errorf("quantity: %q is no whole number", count)
	}
	sku := r.constantSKU
	if sku == "" {
		if sku, err = r.sku.of(row, names); err != nil {
			return purchase{}, fmt.Errorf("SKU: %w", err)
		}
	}
	return purchase{customer: customer, sku: sku, quantity: n}, nil
}

// row is a line of the log, whole and in fields.
type row struct {
	text   string
	fields []string
}

func (r *replay) rows(raw []byte) ([]row, error) {
	if r.format == "csv" {
		cr := csv.NewReader(bytes.NewReader(raw))
		cr.Comma, cr.TrimLeadingSpace = rune(r.separator[0]), true
		records, err := cr.ReadAll()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.file, err)
		}
		rows := make([]row, len(records))
		for i, f := range records {
			rows[i] = row{text: strings.Join(f, r.separator), fields: f}
		}
		return rows, nil
	}
	var rows []row
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\r\n")
		rows = append(rows, row{text: line, fields: strings.Fields(line)})
	}
	return rows, nil
}

// column is a field's number, a header's name, or FROM-TO in bytes.
type column string

func (c *column) String() string     { return string(*c) }
func (c *column) Set(s string) error { *c = column(s); return nil }
func (c *column) Type() string       { return "column" }

var errNoColumn = errors.New("the line has no such column")

func (c column) of(r row, names map[string]int) (string, error) {
	i, named := names[string(c)]
	if n, err := strconv.Atoi(string(c)); err == nil && !named {
		i, named = n-1, true
	}
	if named {
		if i < 0 || i >= len(r.fields) {
			return "", fmt.Errorf("%w: %s of %d", errNoColumn, c, len(r.fields))
		}
		return strings.TrimSpace(r.fields[i]), nil
	}
	from, to, ok := strings.Cut(string(c), "-")
	a, errA := strconv.Atoi(from)
	b, errB := strconv.Atoi(to)
	if !ok || errA != nil || errB != nil || a < 1 || b < a || b > len(r.text) {
		return "", fmt.Errorf("%w: %q", errNoColumn, string(c))
	}
	return strings.TrimSpace(r.text[a-1 : b]), nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d MiB: split it", path, limit>>20)
	}
	return b, nil
}
