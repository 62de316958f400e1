package local

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestStandInOnlyWhereItWillDo(t *testing.T) {
	t.Setenv("JAVA_HOME", "")
	fakePath(t, true, nil)
	o := Options{Dir: t.TempDir(), Cache: t.TempDir(), Postgres: PostgresOptions{Off: true}}
	o.Kafka.Port = scratchPorts()
	_, err := Start(t.Context(), o)
	wantMissing(t, err, "Java 17")

	o.Kafka.StandIn = true
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	createTopic(t, s.Kafka(), "kept")
	part := s.Parts()[0]
	if part.Kind != StandIn || !strings.Contains(part.Note, "Java 17") || !strings.Contains(part.Note, "cannot show") {
		t.Errorf("it does not say what it is: %+v", part)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop(t.Context())
	if err := createdTopic(t, again.Kafka(), "kept"); err == nil {
		t.Error("the stand-in forgot its topic")
	}
}

func createTopic(t *testing.T, addresses []string, topic string) {
	t.Helper()
	if err := createdTopic(t, addresses, topic); err != nil {
		t.Fatal(err)
	}
}

func createdTopic(t *testing.T, addresses []string, topic string) error {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addresses...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, nil, topic)
	return err
}

func TestStandInIsNotForMissingMaven(t *testing.T) {
	t.Setenv("JAVA_HOME", "")
	fakePath(t, true, map[string]string{"java": `echo 'openjdk version "17.0.15" 2025-04-15' >&2`})
	o := Options{Dir: t.TempDir(), Cache: t.TempDir(), Kafka: KafkaOptions{StandIn: true}, Postgres: PostgresOptions{Off: true}}
	_, err := Start(t.Context(), o)
	wantMissing(t, err, "Maven")
}

// A port that is taken after it was found free is the one failure that is worth another try.
func TestPortTakenMeanwhile(t *testing.T) {
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	c, err := openCache(dir, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	home, err := fetchKafka(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	n, err := scratchNode(t.TempDir(), home)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.format(home.bootstrap); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", n.client)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tries := 0
	_, err = retryPorts(func() (started, error) {
		tries++
		if tries > 1 {
			return started{}, nil
		}
		return started{}, n.process(home, KafkaOptions{}, false).Start(t.Context())
	})
	if err != nil || tries != 2 {
		t.Errorf("%d tries: %v", tries, err)
	}
}

func TestOtherFailuresAreNotTriedAgain(t *testing.T) {
	tries := 0
	_, err := retryPorts(func() (started, error) { tries++; return started{}, errors.New("out of memory") })
	if err == nil || tries != 1 {
		t.Errorf("%d tries: %v", tries, err)
	}
}

func TestBrokerOfAnotherClusterIsNotOurs(t *testing.T) {
	fake, err := startKafkaStandIn(&builder{
		Options: Options{Dir: t.TempDir(), Kafka: KafkaOptions{Port: scratchPorts()}}, ports: &ports{},
	}, &MissingError{})
	if err != nil {
		t.Fatal(err)
	}
	defer fake.stop(t.Context())
	n := &kafkaNode{id: 0, client: fake.part.Address, cluster: newKafkaID()}
	if err := n.answers(t.Context()); err == nil || !strings.Contains(err.Error(), "another Kafka cluster") {
		t.Errorf("somebody else's broker was taken for ours: %v", err)
	}
}

func TestServerThatEndsIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	p := &Process{command: command{
		name: "broken", path: "/bin/sh", args: []string{"-c", "echo no such setting; exit 3"},
		log: filepath.Join(dir, "log"), record: filepath.Join(dir, "record"),
		ready: func(context.Context) error { return errors.New("no answer") }, readyWait: time.Minute,
	}}
	begin := time.Now()
	err := p.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no such setting") || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

func TestKafkaIDs(t *testing.T) {
	for range 1000 {
		if id := newKafkaID(); len(id) != 22 || id[0] == '-' {
			t.Fatalf("%q is no Kafka ID", id)
		}
	}
}
