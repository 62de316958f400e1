package topics_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/topics"
)

func TestMain(m *testing.M) { localtest.Main(m) }

func newAdmin(t *testing.T) *kadm.Client {
	t.Helper()
	adm, err := topics.NewAdmin(localtest.Kafka(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(adm.Close)
	return adm
}

func applied(t *testing.T, adm *kadm.Client) (context.Context, *topics.Table) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	table := topics.New(topics.Options{Prefix: localtest.Prefix(t), Partitions: 3})
	if _, err := topics.Apply(ctx, adm, table, topics.Cluster{}); err != nil {
		t.Fatal(err)
	}
	return ctx, table
}

func TestApplyCreatesEverythingOnce(t *testing.T) {
	adm := newAdmin(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	table := topics.New(topics.Options{Prefix: localtest.Prefix(t), Partitions: 3})

	if err := topics.Check(ctx, adm, table, topics.Cluster{}); err == nil || !strings.Contains(err.Error(), table.OrderCommands.Name+": does not exist") {
		t.Fatalf("a role may start on an empty cluster: %v", err)
	}
	did, err := topics.Apply(ctx, adm, table, topics.Cluster{})
	if err != nil {
		t.Fatal(err)
	}
	if len(did.Create) != len(table.All()) {
		t.Errorf("created %d topics of %d", len(did.Create), len(table.All()))
	}
	if err := topics.Check(ctx, adm, table, topics.Cluster{}); err != nil {
		t.Fatal(err)
	}
	again, err := topics.Apply(ctx, adm, table, topics.Cluster{})
	if err != nil || !again.Empty() {
		t.Fatalf("the second time: %v, %v", again.Sentences(), err)
	}
	offsets, err := adm.FetchOffsets(ctx, table.Group(topics.PostgresSinkGroup))
	if err != nil {
		t.Fatal(err)
	}
	for p := range table.Partitions {
		if at, ok := offsets.Lookup(table.OrderEvents.Name, p); !ok || at.At != 0 {
			t.Errorf("first offset of the sink on partition %d: %v %v", p, at.At, ok)
		}
	}
}

func TestApplyMovesNoOffset(t *testing.T) {
	adm := newAdmin(t)
	ctx, table := applied(t, adm)
	group, name := table.Group(topics.OrderGroup), table.OrderCommands.Name

	moved := kadm.Offsets{}
	moved.AddOffset(name, 1, 7, -1)
	if err := adm.CommitAllOffsets(ctx, group, moved); err != nil {
		t.Fatal(err)
	}
	gone := kadm.TopicsSet{}
	gone.Add(name, 2)
	if _, err := adm.DeleteOffsets(ctx, group, gone); err != nil {
		t.Fatal(err)
	}

	want := "group " + group + ": has no offset for " + name + "[2]"
	if err := topics.Check(ctx, adm, table, topics.Cluster{}); err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("a missing offset is not named: %v", err)
	}
	if _, err := topics.Apply(ctx, adm, table, topics.Cluster{}); err != nil {
		t.Fatal(err)
	}
	offsets, err := adm.FetchOffsets(ctx, group)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range []int64{0, 7, 0} {
		if at, _ := offsets.Lookup(name, int32(p)); at.At != want {
			t.Errorf("partition %d is at %d, want %d", p, at.At, want)
		}
	}
}

func TestApplyGuessesNoOffsetOfALogThatHasLostItsHead(t *testing.T) {
	adm := newAdmin(t)
	ctx, table := applied(t, adm)
	group, name := table.Group(topics.OrderGroup), table.OrderCommands.Name
	cl, err := kgo.NewClient(kgo.SeedBrokers(localtest.Kafka(t)...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for range 3 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: name, Partition: 2, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	head := kadm.Offsets{}
	head.AddOffset(name, 2, 3, -1)
	if _, err := adm.DeleteRecords(ctx, head); err != nil {
		t.Fatal(err)
	}
	gone := kadm.TopicsSet{}
	gone.Add(name, 2)
	if _, err := adm.DeleteOffsets(ctx, group, gone); err != nil {
		t.Fatal(err)
	}
	_, err = topics.Apply(ctx, adm, table, topics.Cluster{})
	if err == nil || !strings.Contains(err.Error(), "that log begins at 3") {
		t.Fatalf("an offset was guessed: %v", err)
	}
}

// grow adds a partition, and returns when the broker tells of it.
func grow(t *testing.T, ctx context.Context, adm *kadm.Client, topic string) {
	t.Helper()
	if _, err := adm.CreatePartitions(ctx, 1, topic); err != nil {
		t.Fatal(err)
	}
	for n := 0; n != 4; {
		all, err := adm.ListTopics(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		n = len(all[topic].Partitions)
	}
}

func TestDriftIsNamedAndNotTouched(t *testing.T) {
	adm := newAdmin(t)
	ctx, table := applied(t, adm)
	alter := func(topic, key, value string) {
		t.Helper()
		r, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: key, Value: &value}}, topic)
		if err == nil {
			_, err = r.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	alter(table.OrderCommands.Name, "message.timestamp.type", "CreateTime")
	alter(table.OrderEvents.Name, "retention.ms", "1000")
	alter(table.OrderTable.Name, "cleanup.policy", "delete")
	alter(table.PaymentResults.Name, "max.message.bytes", "1000")
	grow(t, ctx, adm, table.Reservations.Name)

	_, err := topics.Apply(ctx, adm, table, topics.Cluster{ReplicationFactor: 3, MinInSync: 2})
	var differs topics.DifferenceError
	if !errors.As(err, &differs) {
		t.Fatalf("drift was accepted: %v", err)
	}
	for _, want := range []string{
		table.OrderCommands.Name + ": message.timestamp.type is CreateTime, the table says LogAppendTime",
		table.OrderEvents.Name + ": retention.ms is 1000, the table says -1",
		table.OrderTable.Name + ": cleanup.policy is delete, the table says compact",
		table.PaymentResults.Name + ": max.message.bytes is 1000, the table says 1048576",
		table.Reservations.Name + ": has 4 partitions, the table says 3",
		table.OrderTimeouts.Name + ": partition 0 has 1 replicas, at least 3 are wanted",
		table.OrderTimeouts.Name + ": min.insync.replicas is 1, at least 2 is wanted",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not named: %s", want)
		}
	}
	configs, err := adm.DescribeTopicConfigs(ctx, table.OrderEvents.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == "retention.ms" && c.MaybeValue() != "1000" {
			t.Errorf("apply changed a topic that was there: retention.ms is %s", c.MaybeValue())
		}
	}
}

func TestApplyByTwoAtOnce(t *testing.T) {
	adm := newAdmin(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	table := topics.New(topics.Options{Prefix: localtest.Prefix(t), Partitions: 2})
	done := make(chan error)
	for range 2 {
		go func() {
			_, err := topics.Apply(ctx, adm, table, topics.Cluster{})
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestOffsetsThatExpireAreNamed(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1)) // its brokers forget after a week, as Kafka's do by default
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	adm, err := topics.NewAdmin(fake.ListenAddrs())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	_, err = topics.Apply(t.Context(), adm, table, topics.Cluster{})
	if err == nil || !strings.Contains(err.Error(), "broker 0: offsets.retention.minutes is 10080") {
		t.Fatalf("offsets may expire, and nobody says so: %v", err)
	}
}
