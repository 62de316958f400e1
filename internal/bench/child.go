package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/topics"
)

// childConfig is one side of a workload, in a process of its own, so that no side inherits another's heap.
type childConfig struct {
	Side    string   `json:"side"`
	Brokers []string `json:"brokers"`
	Prefix  string   `json:"prefix"`
	Dir     string   `json:"dir"`
	Profile string   `json:"profile"`
}

func (c childConfig) table() *topics.Table {
	return topics.New(topics.Options{Prefix: c.Prefix, Partitions: benchPartitions})
}

// runChild is the other end of spawn.
func runChild(ctx context.Context, raw string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return err
	}
	if c.Profile != "" {
		f, err := os.Create(filepath.Join(c.Profile, c.Prefix+"cpu.pprof"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	switch c.Side {
	case "millrace":
		return c.millrace(ctx)
	case "goka":
		return c.goka(ctx)
	case "passthrough":
		return c.passthrough(ctx)
	}
	return fmt.Errorf("%q is no side", c.Side)
}

// millrace is the inventory processor as `serve inventory` runs it: one setting for all loads.
func (c childConfig) millrace(ctx context.Context) error {
	p, err := processors.New(processors.Config{
		Brokers: c.Brokers, Topics: c.table(), Group: topics.InventoryGroup, DataDir: c.Dir,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	go func() {
		for !p.Ready() && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		fmt.Println(readyLine) // to the parent
	}()
	return p.Run(ctx)
}

const readyLine = "ready"

// goka is the same graph on Goka as shipped: its own defaults, with acks from all and offsets from the oldest.
func (c childConfig) goka(ctx context.Context) error {
	cfg := goka.DefaultConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	goka.ReplaceGlobalConfig(cfg)
	p, err := goka.NewProcessor(c.Brokers, processors.InventoryGraph(c.table()),
		goka.WithStorageBuilder(storage.DefaultBuilder(c.Dir)), goka.WithHasher(func() hash.Hash32 { return fnv.New32a() }))
	if err != nil {
		return err
	}
	if err := p.Run(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// passthrough reads and writes two records for each, in transactions of the same length, and decides nothing.
func (c childConfig) passthrough(ctx context.Context) error {
	t := c.table()
	s, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(c.Brokers...), kgo.TransactionalID(c.Prefix+"pass"), kgo.ConsumerGroup(t.Group(topics.InventoryGroup)),
		kgo.ConsumeTopics(t.Reservations.Name), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RecordPartitioner(topics.Partitioner()), kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return err
	}
	defer s.Close()
	for ctx.Err() == nil {
		if err := s.Begin(); err != nil {
			return err
		}
		for began := time.Now(); time.Since(began) < 100*time.Millisecond && ctx.Err() == nil; {
			poll, cancel := context.WithTimeout(ctx, 20*time.Millisecond) // the transaction must end when nothing more comes
			fs := s.PollRecords(poll, 10_000)
			cancel()
			for it := fs.RecordIter(); !it.Done(); {
				r := it.Next()
				cause := topics.CauseOf(r)
				headers := t.InventoryEvents.Headers(string(r.Key), topics.By("/pass", cause, string(r.Key), 0))
				s.Produce(ctx, &kgo.Record{Topic: t.InventoryEvents.Name, Key: r.Key, Value: r.Value, Headers: headers}, nil)
				s.Produce(ctx, &kgo.Record{Topic: t.InventoryAnswers.Name, Key: r.Key, Value: r.Value, Headers: headers}, nil)
			}
		}
		if _, err := s.End(context.WithoutCancel(ctx), kgo.TryCommit); err != nil {
			return err
		}
	}
	return nil
}

// child is a running side.
type child struct {
	cmd   *exec.Cmd
	ready chan struct{} // closed when it says so; only millrace does
	ended chan error
	once  sync.Once
}

func (b *bench) spawn(c childConfig) (*child, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-child", string(raw))
	cmd.Stderr = os.Stderr
	if c.Side == "goka" {
		cmd.Stderr = io.Discard // goka logs every step of a start
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	ch := &child{cmd: cmd, ready: make(chan struct{}), ended: make(chan error, 1)}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go ch.follow(stdout)
	return ch, nil
}

func (c *child) follow(stdout io.Reader) {
	said := false
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if lines.Text() == readyLine && !said {
			said = true
			close(c.ready)
		}
	}
	c.ended <- c.cmd.Wait()
}

// until polls a condition while the child runs.
func (c *child) until(ctx context.Context, reached func() (bool, error)) error {
	for {
		ok, err := reached()
		if ok || err != nil {
			return err
		}
		select {
		case err := <-c.ended:
			c.ended <- err
			return fmt.Errorf("it ended too early: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *child) stop() {
	c.once.Do(func() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-c.ended:
		case <-time.After(30 * time.Second):
			_ = c.cmd.Process.Kill()
			<-c.ended
		}
	})
}

// residentMB is the memory that a process holds.
func residentMB(pid int) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				return 0
			}
			return kb / 1024
		}
	}
	return 0
}

// cpuSeconds is the time that a process has computed.
func cpuSeconds(pid int) float64 {
	_, seconds := processOf(pid)
	return seconds
}

// cpuSecondsWithChildren counts the processes that a process has started, too, while they live.
func cpuSecondsWithChildren(pid int) float64 {
	total := cpuSeconds(pid)
	all, err := os.ReadDir("/proc")
	if err != nil {
		return total
	}
	for _, p := range all {
		child, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if parent, seconds := processOf(child); parent == pid {
			total += seconds
		}
	}
	return total
}

// processOf is a process's parent, and how long it has computed.
func processOf(pid int) (parent int, seconds float64) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(fields[1])
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	const ticks = 100 // a second, on every Linux that Go runs on
	return parent, (user + system) / ticks
}
