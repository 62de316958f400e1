package local_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		os.Exit(ownerMain())
	}
	localtest.Main(m)
}

var (
	noKafka    = local.KafkaOptions{Off: true}
	noPostgres = local.PostgresOptions{Off: true}
)

func TestStateSurvivesStopAndCrash(t *testing.T) {
	s := localtest.Stack(t, local.Options{})
	cl := kafkaClient(t, s.Kafka(), kgo.DefaultProduceTopic("kept"))
	createTopic(t, cl, "kept", 1)
	produce(t, cl, "before")
	db := connect(t, s.PostgresURL())
	execute(t, db, "CREATE TABLE kept (n int)")

	for _, p := range []*local.Process{s.Broker(0), s.Postgres()} {
		if err := p.Kill9(); err != nil {
			t.Fatal(err)
		}
		if p.Alive() {
			t.Errorf("%s lives after kill -9", p.Name())
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	produce(t, cl, "after")
	execute(t, connect(t, s.PostgresURL()), "INSERT INTO kept VALUES (1)")
}

func TestStoppedStackGoesOnWhereItWas(t *testing.T) {
	dir := localtest.Dir(t)
	first := localtest.Stack(t, local.Options{Dir: dir})
	createTopic(t, kafkaClient(t, first.Kafka()), "kept", 3)
	execute(t, connect(t, first.PostgresURL()), "CREATE TABLE kept (n int)")
	if err := first.Announce("api", "127.0.0.1:8080"); err != nil {
		t.Fatal(err)
	}
	run, err := local.FindRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if run.Kafka[0] != first.Kafka()[0] || run.Postgres != first.PostgresURL() || run.Also["api"] != "127.0.0.1:8080" {
		t.Errorf("run.json says %+v", run)
	}
	if !run.Alive(first.Broker(0).PID()) {
		t.Error("run.json says that the broker is dead")
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := local.FindRun(dir); !errors.Is(err, local.ErrNotRunning) {
		t.Errorf("after Stop: %v", err)
	}

	second := localtest.Stack(t, local.Options{Dir: dir})
	topics, err := kadm.NewClient(kafkaClient(t, second.Kafka())).ListTopics(t.Context(), "kept")
	if err != nil || len(topics["kept"].Partitions) != 3 {
		t.Errorf("the topic is %v, %v", topics, err)
	}
	execute(t, connect(t, second.PostgresURL()), "SELECT n FROM kept")
}

func TestSecondStackInOneFolderIsRefused(t *testing.T) {
	s := localtest.Stack(t, local.Options{Kafka: noKafka})
	_, err := local.Start(t.Context(), local.Options{Dir: s.Dir(), Kafka: noKafka})
	var running *local.RunningError
	if !errors.As(err, &running) || running.Run.Owner.PID != os.Getpid() {
		t.Errorf("a second Start: %v", err)
	}
	if !s.Postgres().Alive() {
		t.Error("the first one was ended")
	}
	if err := local.Erase(t.Context(), s.Dir()); !errors.As(err, &running) {
		t.Errorf("Erase of a running one: %v", err)
	}
}

func TestTakenPortsArePassedOver(t *testing.T) {
	taken := listenBelowEphemeral(t)
	s := localtest.Stack(t, local.Options{
		Kafka:    local.KafkaOptions{Port: taken},
		Postgres: local.PostgresOptions{Port: taken},
	})
	for _, part := range s.Parts() {
		if part.Address == fmt.Sprintf("127.0.0.1:%d", taken) {
			t.Errorf("%s has a port that was taken", part.Name)
		}
	}
}

// listenBelowEphemeral takes a port and returns it.
func listenBelowEphemeral(t *testing.T) int {
	t.Helper()
	for port := 31000; port < 32000; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			t.Cleanup(func() { l.Close() })
			return port
		}
	}
	t.Fatal("no free port from 31000 to 31999")
	return 0
}

func TestThreeBrokersSurviveTheDeathOfOne(t *testing.T) {
	t.Parallel() // mostly waits
	s := localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Brokers: 3}, Postgres: noPostgres})
	cl := kafkaClient(t, s.Kafka(), kgo.DefaultProduceTopic("kept"), kgo.RequiredAcks(kgo.AllISRAcks()))
	createTopic(t, cl, "kept", 1)
	if got := topicSetting(t, cl, "kept", "min.insync.replicas"); got != "2" {
		t.Errorf("%s replicas in sync are enough, want 2", got)
	}
	produce(t, cl, "by all")
	victim := leader(t, cl, "kept")
	if err := s.Broker(victim).Kill9(); err != nil {
		t.Fatal(err)
	}
	produce(t, cl, "by two")
	if now := leader(t, cl, "kept"); now == victim {
		t.Errorf("broker %d leads though it was killed", now)
	}
	if err := s.Broker(victim).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitInSync(t, cl, "kept", 3)
}

func topicSetting(t *testing.T, cl *kgo.Client, topic, key string) string {
	t.Helper()
	configs, err := kadm.NewClient(cl).DescribeTopicConfigs(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == key {
			return c.MaybeValue()
		}
	}
	t.Fatalf("%s has no setting %s", topic, key)
	return ""
}

// leader is the index of the broker that leads the topic's first partition.
func leader(t *testing.T, cl *kgo.Client, topic string) int {
	t.Helper()
	topics, err := kadm.NewClient(cl).ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return int(topics[topic].Partitions[0].Leader) - 1 // node IDs begin at 1
}

// awaitInSync waits until the topic's first partition has n replicas in sync.
func awaitInSync(t *testing.T, cl *kgo.Client, topic string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		topics, err := kadm.NewClient(cl).ListTopics(ctx, topic)
		if err == nil && len(topics[topic].Partitions[0].ISR) == n {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not %d replicas in sync: %+v, %v", n, topics, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// The numbers that other rooms count on.
func TestBrokerSettings(t *testing.T) {
	s := localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Settings: map[string]string{"log.retention.ms": "12345"}}, Postgres: noPostgres})
	configs, err := kadm.NewClient(kafkaClient(t, s.Kafka())).DescribeBrokerConfigs(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, c := range configs[0].Configs {
		got[c.Key] = c.MaybeValue()
	}
	for key, want := range map[string]string{
		"offsets.retention.minutes":              "2147483647",
		"auto.create.topics.enable":              "false",
		"message.max.bytes":                      "4194304",
		"group.min.session.timeout.ms":           "500",
		"add.partitions.to.txn.retry.backoff.ms": "1",
		"log.retention.ms":                       "12345", // asked for above
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
}

func TestPausedServersCanBeStopped(t *testing.T) {
	s := localtest.Stack(t, local.Options{})
	for _, p := range []*local.Process{s.Broker(0), s.Postgres()} {
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %v: they were killed, not stopped", took)
	}
}

func TestPausedBrokerAnswersAgain(t *testing.T) {
	s := localtest.Stack(t, local.Options{Postgres: noPostgres})
	if err := s.Broker(0).Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	hasty := kgo.RequestTimeoutOverhead(300 * time.Millisecond)
	if err := kafkaClient(t, s.Kafka(), hasty).Ping(short); err == nil {
		t.Error("a paused broker answers")
	}
	if err := s.Broker(0).Resume(); err != nil {
		t.Fatal(err)
	}
	long, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := kafkaClient(t, s.Kafka()).Ping(long); err != nil {
		t.Errorf("a resumed broker does not answer: %v", err)
	}
}

func TestWaitTellsWhoDied(t *testing.T) {
	s := localtest.Stack(t, local.Options{Kafka: noKafka})
	quiet, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(quiet); err != nil {
		t.Errorf("nobody died, but: %v", err)
	}
	if err := s.Postgres().Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context()); err == nil {
		t.Error("Wait returned nil for a killed server")
	}
}

func TestServersThatRunAlreadyAreUsed(t *testing.T) {
	theirs := localtest.Stack(t, local.Options{})
	ours := localtest.Stack(t, local.Options{
		Kafka:    local.KafkaOptions{External: theirs.Kafka()},
		Postgres: local.PostgresOptions{External: theirs.PostgresURL()},
	})
	if ours.Kafka()[0] != theirs.Kafka()[0] || ours.PostgresURL() != theirs.PostgresURL() || ours.Brokers() != 0 {
		t.Errorf("not the servers that were named: %+v", ours.Parts())
	}
	_, err := local.Start(t.Context(), local.Options{Dir: localtest.Dir(t), Kafka: local.KafkaOptions{External: []string{"127.0.0.1:1"}}, Postgres: noPostgres})
	if err == nil {
		t.Error("a Kafka that does not answer was taken")
	}
}

func TestAnotherNumberOfBrokersIsRefused(t *testing.T) {
	dir := localtest.Dir(t)
	if err := localtest.Stack(t, local.Options{Dir: dir, Postgres: noPostgres}).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	three := local.Options{Dir: dir, Kafka: local.KafkaOptions{Brokers: 3}, Postgres: noPostgres}
	if _, err := local.Start(t.Context(), three); err == nil {
		t.Error("three brokers started on the data of one")
	}
	if err := local.Erase(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "kafka")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Erase left the data: %v", err)
	}
}

func kafkaClient(t *testing.T, addresses []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addresses...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t *testing.T, cl *kgo.Client, topic string, partitions int32) {
	t.Helper()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, -1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

func produce(t *testing.T, cl *kgo.Client, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := cl.ProduceSync(ctx, kgo.StringRecord(value)).FirstErr(); err != nil {
		t.Fatalf("produce %q: %v", value, err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
