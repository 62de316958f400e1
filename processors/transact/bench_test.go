package transact

import (
	"context"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kgo"
)

// benchSize is how many commands a throughput benchmark works off, all of them once, whatever b.N is.
func benchSize() int {
	if n, err := strconv.Atoi(os.Getenv("TRANSACT_BENCH_N")); err == nil {
		return n
	}
	return 1_000_000
}

func benchmarkThroughput(b *testing.B, accounts int, start func(b *testing.B, l ledger, dir string) (stop func() error)) {
	l := newLedger(b, 6, accounts)
	l.opening = int64(benchSize())
	l.load(b, benchSize(), 1)
	adm := l.admin(b)
	total := int64(benchSize() + accounts)
	b.ResetTimer()
	began, cpuBefore := firstOutcome(b, l), cpuTime()
	stop := start(b, l, b.TempDir())
	from := <-began
	within(b, 300*time.Second, "all committed", func() bool { return lag(b, adm, l.group(), l.in()) == 0 })
	took, cpu := time.Since(from), cpuTime()-cpuBefore
	b.StopTimer()
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	if v := l.check(b, nil); !v.exact() {
		b.Fatalf("%+v", v)
	}
	b.ReportMetric(float64(total)/took.Seconds(), "commands/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(total), "cpu-ns/command")
	b.ReportMetric(0, "ns/op")
}

// cpuTime is what this process has used, which a busy machine changes less than the clock.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func firstOutcome(b *testing.B, l ledger) <-chan time.Time {
	seen := make(chan time.Time, 1)
	cl := client(b, kgo.ConsumeTopics(l.out()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(1000))
	go func() {
		cl.PollFetches(context.Background())
		seen <- time.Now()
		cl.Close()
	}()
	return seen
}

func startTransact(cfg Config) func(*testing.B, ledger, string) func() error {
	return func(b *testing.B, l ledger, dir string) func() error {
		if cfg.Dir != "memory" {
			cfg.Dir = dir
		} else {
			cfg.Dir = ""
		}
		_, stop := run(b, cfg, l)
		return stop
	}
}

// startGoka is goka as shipped: its own defaults, acknowledged by all, from the oldest offset, on LevelDB.
func startGoka(b *testing.B, l ledger, dir string) func() error {
	cfg := goka.DefaultConfig()
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	goka.ReplaceGlobalConfig(cfg)
	tm := goka.NewTopicManagerConfig()
	tm.Table.Replication, tm.Stream.Replication = 1, 1
	p, err := goka.NewProcessor(brokers(b), l.graph(l.decide),
		goka.WithTopicManagerBuilder(goka.TopicManagerBuilderWithTopicManagerConfig(tm)),
		goka.WithStorageBuilder(storage.DefaultBuilder(dir)),
		goka.WithLogger(gokaLogger{quiet()}))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

func BenchmarkUniform(b *testing.B) { benchmarkThroughput(b, 1000, startTransact(Config{})) }
func BenchmarkUniformMemory(b *testing.B) {
	benchmarkThroughput(b, 1000, startTransact(Config{Dir: "memory"}))
}
func BenchmarkHot(b *testing.B)         { benchmarkThroughput(b, 1, startTransact(Config{})) }
func BenchmarkUniformGoka(b *testing.B) { benchmarkThroughput(b, 1000, startGoka) }
func BenchmarkHotGoka(b *testing.B)     { benchmarkThroughput(b, 1, startGoka) }

// BenchmarkLatency is one hop at 500 commands a second: from produce to the outcome in a read-committed consumer's hands.
func BenchmarkLatency(b *testing.B) {
	l := newLedger(b, 6, 1000)
	_, stop := run(b, Config{Dir: b.TempDir()}, l)
	defer stop()
	cl := client(b, kgo.ProducerLinger(0))
	rd := client(b, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeTopics(l.out()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var mu sync.Mutex
	sent, took := map[string]time.Time{}, []time.Duration{}
	go func() {
		for {
			fs := rd.PollFetches(context.Background())
			if fs.IsClientClosed() {
				return
			}
			mu.Lock()
			fs.EachRecord(func(r *kgo.Record) {
				id, _, _ := strings.Cut(string(r.Value), "|")
				if at, ok := sent[id]; ok {
					took = append(took, time.Since(at))
				}
			})
			mu.Unlock()
		}
	}()
	b.ResetTimer()
	const perSecond, seconds, warm = 500, 12, 4
	tick := time.NewTicker(time.Second / perSecond)
	for i := range perSecond * seconds {
		<-tick.C
		id := strconv.Itoa(i)
		if i > warm*perSecond {
			mu.Lock()
			sent[id] = time.Now()
			mu.Unlock()
		}
		cl.Produce(context.Background(), &kgo.Record{Topic: l.in(), Key: []byte(account(i % 1000)), Value: []byte(id + "|1")}, nil)
	}
	all := func() bool { mu.Lock(); defer mu.Unlock(); return len(took) == len(sent) }
	within(b, 30*time.Second, "all outcomes", all)
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}
