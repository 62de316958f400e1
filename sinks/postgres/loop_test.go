package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/audit"
	inventoryv1 "github.com/millrace/millrace/internal/gen/shop/inventory/v1"
	paymentv1 "github.com/millrace/millrace/internal/gen/shop/payment/v1"
	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/sinks/postgres"
	"github.com/millrace/millrace/topics"
)

const partitions = 3

// world is a log, a database, and somebody who writes events in transactions, as the processors do.
type world struct {
	*testing.T
	ctx     context.Context
	brokers []string
	table   *topics.Table
	address string
	pool    *pgxpool.Pool
	admin   *kadm.Client
	events  *kgo.Client
	random  *rand.Rand

	orders  []int64 // the version of each
	stock   []int64
	results int32
}

func newWorld(t *testing.T) *world { return newWorldIn(t, localtest.Postgres(t)) }

func newWorldIn(t *testing.T, address string) *world {
	return newWorldOf(t, localtest.Kafka(t), address)
}

func newWorldOf(t *testing.T, brokers []string, address string) *world {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	w := &world{T: t, ctx: ctx, brokers: brokers, orders: make([]int64, 200), stock: make([]int64, 7)}
	w.table = topics.New(topics.Options{Prefix: localtest.Prefix(t), Partitions: partitions})
	w.random = rand.New(rand.NewPCG(7, 7))
	admin, err := topics.NewAdmin(w.brokers)
	w.must(err)
	t.Cleanup(admin.Close)
	w.admin = admin
	_, err = topics.Apply(ctx, admin, w.table, topics.Cluster{})
	w.must(err)
	w.address, w.pool = address, setUp(t, address, w.table)
	w.events, err = kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID(w.table.Prefix+"events"), kgo.RecordPartitioner(topics.Partitioner()))
	w.must(err)
	t.Cleanup(w.events.Close)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// write produces n events in one transaction, and aborts another of as many.
func (w *world) write(n int) {
	w.Helper()
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		orders, stock, results := append([]int64(nil), w.orders...), append([]int64(nil), w.stock...), w.results
		w.must(w.events.BeginTransaction())
		for range n {
			w.events.Produce(w.ctx, w.next(), nil)
		}
		w.must(w.events.Flush(w.ctx))
		w.must(w.events.EndTransaction(w.ctx, end))
		if end == kgo.TryAbort {
			w.orders, w.stock, w.results = orders, stock, results
		}
	}
}

func (w *world) next() *kgo.Record {
	stamp := topics.Fresh("/test", "")
	switch i := w.random.IntN(10); {
	case i < 6:
		n := w.random.IntN(len(w.orders))
		w.orders[n]++
		return w.table.OrderEvents.Record(orderEvent(orderID(fmt.Sprint(n)), w.orders[n]), stamp)
	case i < 9:
		n := w.random.IntN(len(w.stock))
		w.stock[n]++
		return w.table.InventoryEvents.Record(&inventoryv1.InventoryEvent{Sku: fmt.Sprint("SKU-", n), Version: w.stock[n], OnHand: 5 + w.stock[n], Reserved: w.stock[n]}, stamp)
	}
	w.results++
	return w.table.PaymentResults.Record(&paymentv1.PaymentResult{
		OrderId: orderID("0"), StepNumber: w.results, Step: paymentv1.PaymentStep_PAYMENT_STEP_POLL, Outcome: paymentv1.PaymentOutcome_PAYMENT_OUTCOME_PENDING,
	}, stamp)
}

func (w *world) inputs() []topics.Topic {
	return []topics.Topic{w.table.OrderEvents.Topic, w.table.InventoryEvents.Topic, w.table.PaymentResults.Topic}
}

// start runs a sink in this process until the test ends, or until stop.
func (w *world) start(store sinks.Store) (stop func()) {
	w.Helper()
	s, err := newSink(w.brokers, w.table, store, slog.New(slog.NewTextHandler(w.Output(), nil)))
	w.must(err)
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				w.Errorf("the sink ended: %v", err)
			}
		}
	}
	w.Cleanup(stop)
	return stop
}

// awaitEnd returns when the database is where the log ends, with the markers of its last transactions: they come after
// the commit has been answered.
func (w *world) awaitEnd() {
	w.Helper()
	var behind string
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); {
		if behind = w.behind(); behind == "" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.Fatalf("the sink does not reach the end of the log: %s", behind)
}

func (w *world) behind() string {
	var late []string
	ends, err := w.admin.ListEndOffsets(w.ctx, w.table.OrderEvents.Name, w.table.InventoryEvents.Name, w.table.PaymentResults.Name)
	w.must(err)
	store := postgres.New(w.pool, w.table)
	ends.Each(func(end kadm.ListedOffset) {
		p := sinks.Place{Topic: end.Topic, Partition: end.Partition}
		at, err := store.Positions(w.ctx, []sinks.Place{p})
		w.must(err)
		if at[p] != end.Offset {
			late = append(late, fmt.Sprintf("%s is at %d of %d", p, at[p], end.Offset))
		}
	})
	return strings.Join(late, ", ")
}

// mustBeTheFold compares the database with the log.
func (w *world) mustBeTheFold() {
	w.Helper()
	log, err := audit.Read(w.ctx, w.brokers, w.inputs()...)
	w.must(err)
	conn, err := pgx.Connect(w.ctx, w.address)
	w.must(err)
	defer conn.Close(w.ctx)
	report, err := audit.Reconcile(w.ctx, log, w.table, conn)
	w.must(err)
	if !report.OK() {
		w.Errorf("%s", &report)
	}
	var attempts int32
	w.must(conn.QueryRow(w.ctx, "SELECT count(*) FROM payment_attempts").Scan(&attempts))
	if attempts != w.results {
		w.Errorf("%d answers of the gateway are kept, %d were given", attempts, w.results)
	}
}

func TestTheLogArrives(t *testing.T) {
	w := newWorld(t)
	w.write(300)
	stop := w.start(postgres.New(w.pool, w.table))
	w.awaitEnd()
	w.write(50)
	w.awaitEnd()
	w.mustBeTheFold()
	stop()
	// Kafka's own lag is zero too, so that its tools tell the truth.
	lags, err := w.admin.Lag(w.ctx, w.table.Group(topics.PostgresSinkGroup))
	w.must(err)
	if lag := lags[w.table.Group(topics.PostgresSinkGroup)].Lag.Total(); lag != 0 {
		t.Errorf("to Kafka the sink lags by %d", lag)
	}
}

// TestPositionsThatCannotBeFetched: partitions that the client has let go are read by the next.
func TestPositionsThatCannotBeFetched(t *testing.T) {
	w := newWorldOf(t, localtest.Forgetful(t), localtest.Postgres(t))
	w.write(30)
	w.start(postgres.New(w.pool, w.table))
	w.awaitEnd()
	w.mustBeTheFold()
}

func TestPoisonStopsNobody(t *testing.T) {
	w := newWorld(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(topics.MaxRecordBytes))
	w.must(err)
	defer cl.Close()
	bad := func(reason topics.Reason, spoil func(*kgo.Record)) {
		r := w.table.OrderEvents.Record(orderEvent(orderID("poison"), 1), topics.Fresh("/test", ""))
		r.Partition = topics.Partition(r.Key, partitions)
		spoil(r)
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "expect", Value: []byte(reason)})
		w.must(cl.ProduceSync(w.ctx, r).FirstErr())
	}
	w.write(30)
	bad(topics.DecodeFailed, func(r *kgo.Record) { r.Value = []byte("\xff\xff\xff random bytes") })
	bad(topics.Empty, func(r *kgo.Record) { r.Value = nil })
	bad(topics.WrongKey, func(r *kgo.Record) {
		r.Value = w.table.OrderEvents.Encode(orderEvent(orderID("another"), 1))
	})
	bad(topics.WrongPartition, func(r *kgo.Record) { r.Partition = (r.Partition + 1) % partitions })
	bad(topics.MissingHeaders, func(r *kgo.Record) { r.Headers = nil })
	bad(topics.KeyTooLong, func(r *kgo.Record) { r.Key = []byte(strings.Repeat("k", 900<<10)) })
	bad(topics.Invalid, func(r *kgo.Record) {
		e := orderEvent(orderID("poison"), 1)
		e.Order.PlaceTime = nil
		r.Value = w.table.OrderEvents.Encode(e)
	})
	bad(topics.SinkRejected, func(r *kgo.Record) {
		e := orderEvent(orderID("poison"), 1)
		e.Order.UserId = "\x00"
		r.Value = w.table.OrderEvents.Encode(e)
	})
	bad(topics.SinkRejected, func(r *kgo.Record) {
		e := orderEvent(orderID("poison"), 1)
		e.Order.Lines[0].Quantity = 0
		r.Value = w.table.OrderEvents.Encode(e)
	})
	bad(topics.Invalid, func(r *kgo.Record) {
		e := orderEvent(orderID("poison"), 1)
		e.Order.Lines = append(e.Order.Lines, e.Order.Lines[0])
		r.Value = w.table.OrderEvents.Encode(e)
	})
	w.write(30)
	w.start(postgres.New(w.pool, w.table))
	w.awaitEnd()

	dead, err := audit.Read(w.ctx, w.brokers, w.table.DeadLetters(topics.PostgresSinkGroup))
	w.must(err)
	letters := dead.All(w.table.DeadLetters(topics.PostgresSinkGroup))
	if len(letters) != 10 {
		t.Errorf("%d dead letters, want 10", len(letters))
	}
	for _, r := range letters {
		if got, want := topics.Header(r, topics.HeaderDLQReason), topics.Header(r, "expect"); got != want {
			t.Errorf("the reason is %s, want %s (%s)", got, want, topics.Header(r, topics.HeaderDLQMessage))
		}
	}
	var poisoned int
	w.must(w.pool.QueryRow(w.ctx, "SELECT count(*) FROM orders WHERE id = $1", orderID("poison")).Scan(&poisoned))
	if poisoned != 0 {
		t.Error("poison is in the database")
	}
}

func TestAPositionThatIsNotInTheLogIsFatal(t *testing.T) {
	for name, spoil := range map[string]struct{ sql, want string }{
		"beyond the end":   {"UPDATE sink_offsets SET next_offset = 1000000", "is not in the log"},
		"before the start": {"", "position 0 of"},
		"never set up":     {"DELETE FROM sink_offsets", "no position for"},
		"another log":      {"UPDATE sink_offsets SET topic_id = 'another'", "copy of another log"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write(60)
			if spoil.sql == "" {
				ends, err := w.admin.ListEndOffsets(w.ctx, w.table.OrderEvents.Name)
				w.must(err)
				_, err = w.admin.DeleteRecords(w.ctx, ends.Offsets())
				w.must(err)
			} else {
				_, err := w.pool.Exec(w.ctx, spoil.sql)
				w.must(err)
			}
			s, err := newSink(w.brokers, w.table, postgres.New(w.pool, w.table), slog.New(slog.NewTextHandler(t.Output(), nil)))
			w.must(err)
			ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
			defer cancel()
			if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), spoil.want) {
				t.Errorf("got %v, want an error with %q", err, spoil.want)
			}
		})
	}
}

// overtaken is a store that somebody else writes to first, once: what a zombie meets.
type overtaken struct {
	*postgres.Store
	done chan struct{}
}

func (o *overtaken) Write(ctx context.Context, b sinks.Batch) error {
	select {
	case <-o.done:
	default:
		close(o.done)
		first := sinks.Stretch{Place: b[0].Place, First: b[0].First, End: b[0].Records[1].Offset, Records: b[0].Records[:1]}
		if err := o.Store.Write(ctx, sinks.Batch{first}); err != nil {
			return err
		}
	}
	return o.Store.Write(ctx, b)
}

func TestAZombieChangesNothingAndJoinsAgain(t *testing.T) {
	w := newWorld(t)
	w.write(100)
	o := &overtaken{postgres.New(w.pool, w.table), make(chan struct{})}
	w.start(o)
	<-o.done
	w.awaitEnd()
	w.write(50)
	w.awaitEnd()
	w.mustBeTheFold()
}

// written is how many offsets are in the database.
func (w *world) written() (n int) {
	w.Helper()
	w.must(w.pool.QueryRow(w.ctx, "SELECT sum(next_offset) FROM sink_offsets").Scan(&n))
	return n
}

// awaitWritten returns in the middle of the sinks' work.
func (w *world) awaitWritten(n int) {
	w.Helper()
	for w.written() < n {
		w.must(w.ctx.Err())
		time.Sleep(time.Duration(w.random.IntN(3000)) * time.Microsecond)
	}
}

func TestKilledAndFrozenSinksLeaveTheFoldOfTheLog(t *testing.T) {
	w := newWorld(t)
	w.orders = make([]int64, 5000) // most change only once, so that whatever is lost stays lost
	for range 50 {
		w.write(200)
	}
	first := process(t, w)
	for range 5 {
		w.awaitWritten(w.written() + 1 + w.random.IntN(800))
		w.must(first.Process.Kill())
		first.Wait()
		first = process(t, w)
	}
	// Another instance takes its share, is frozen for longer than its session lasts, and wakes as a zombie.
	second := process(t, w)
	w.write(200)
	w.awaitWritten(w.written() + 1)
	w.must(second.Process.Signal(syscall.SIGSTOP))
	for until := time.Now().Add(sessionTimeout + time.Second); time.Now().Before(until); {
		w.write(40)
	}
	w.must(second.Process.Signal(syscall.SIGCONT))
	w.write(200)
	w.awaitEnd()
	w.mustBeTheFold()
}

func TestAServerThatCrashesLosesNothing(t *testing.T) {
	stack := localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Off: true}})
	w := newWorldIn(t, stack.PostgresURL())
	w.orders = make([]int64, 5000)
	for range 40 {
		w.write(200)
	}
	w.start(postgres.New(w.pool, w.table))
	for range 3 {
		w.awaitWritten(w.written() + 1 + w.random.IntN(800))
		w.must(stack.Postgres().Kill9())
		w.must(stack.Postgres().Start(w.ctx))
		w.pool.Reset()
	}
	w.awaitEnd()
	// A log that has gone quiet brings nothing back: what was written last must be there by itself.
	for range 3 {
		w.write(20)
		w.awaitEnd()
		w.must(stack.Postgres().Kill9())
		w.must(stack.Postgres().Start(w.ctx))
		w.pool.Reset()
		w.mustBeTheFold()
	}
}
