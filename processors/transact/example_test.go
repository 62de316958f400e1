package transact_test

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/processors/transact"
)

// A group that counts what it has seen of each key, exactly once.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	count := func(ctx goka.Context, msg any) {
		var n int64
		if v := ctx.Value(); v != nil {
			n = v.(int64)
		}
		ctx.SetValue(n + 1)
		cause := kgo.RecordHeader{Key: "cause", Value: transact.Record(ctx).Key}
		transact.Emit(ctx, "counts", ctx.Key(), n+1, cause)
	}
	graph := goka.DefineGroup("counter",
		goka.Input("words", new(codec.String), count),
		goka.Output("counts", new(codec.Int64)),
		goka.Persist(new(codec.Int64)),
	)

	inst, err := transact.New(transact.Config{
		Brokers: []string{"127.0.0.1:9092"},
		Dir:     "/var/lib/counter/0",
		DeadLetter: func(r *kgo.Record, reason error) *kgo.Record {
			why := kgo.RecordHeader{Key: "reason", Value: []byte(reason.Error())}
			return &kgo.Record{Topic: "counter.dlq", Key: r.Key, Value: r.Value, Headers: append(r.Headers, why)}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer inst.Close()
	if err := inst.Run(ctx, graph); errors.Is(err, transact.ErrFenced) {
		log.Fatal("another instance has our ordinal: ", err)
	} else if err != nil {
		log.Fatal(err)
	}
}
