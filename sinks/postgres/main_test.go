package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace/internal/local/localtest"
	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/sinks/postgres"
	"github.com/millrace/millrace/topics"
)

// The test binary is its own sink process, so that it can be killed: with these set it is a sink and runs no test.
const (
	envBrokers  = "MILLRACE_TEST_SINK_BROKERS"
	envDatabase = "MILLRACE_TEST_SINK_DATABASE"
	envPrefix   = "MILLRACE_TEST_SINK_PREFIX"
)

// sessionTimeout is short, so that the partitions of a killed sink are soon given away.
const sessionTimeout = 2 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(envBrokers) == "" {
		localtest.Main(m)
		return
	}
	if err := runSink(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runSink() error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv(envDatabase))
	if err != nil {
		return err
	}
	t := topics.New(topics.Options{Prefix: os.Getenv(envPrefix), Partitions: partitions})
	s, err := newSink(strings.Split(os.Getenv(envBrokers), ","), t, postgres.New(pool, t), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func newSink(brokers []string, t *topics.Table, store sinks.Store, log *slog.Logger) (*sinks.Sink, error) {
	return sinks.New(sinks.Config{Brokers: brokers, Topics: t, Store: store, Log: log, MaxRecords: 200, SessionTimeout: sessionTimeout})
}

// process is a sink in a process of its own.
func process(t *testing.T, w *world) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envBrokers+"="+strings.Join(w.brokers, ","), envDatabase+"="+w.address, envPrefix+"="+w.table.Prefix)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}
