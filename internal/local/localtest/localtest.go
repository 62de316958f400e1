// Package localtest gives tests the real servers: one Kafka and one PostgreSQL per test binary, started when the first
// test asks, on free ports, in a temporary folder. MILLRACE_TEST_KAFKA and MILLRACE_TEST_POSTGRES name servers that
// run already (`millrace stack env --tests`), so that many packages can share one pair; tests therefore prefix what
// they create by Prefix, and get a database of their own each.
//
// A server that cannot start fails the test with the sentence that says what is missing; nothing is skipped.
//
// A package's TestMain calls Main, which ends the servers. Without it the kernel ends them with the test binary, and
// the next one removes their folder.
package localtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/local"
)

// The environment variables that name servers to use instead of our own.
const (
	EnvKafka    = "MILLRACE_TEST_KAFKA"    // host:port, several with commas
	EnvPostgres = "MILLRACE_TEST_POSTGRES" // URL of a superuser
)

const (
	startWait = 8 * time.Minute // the very first start fetches the parts
	stopWait  = 30 * time.Second
	askWait   = 30 * time.Second // for the shared server to make or drop a database
	// abandonedAfter is how old a folder without a living owner must be before it is removed.
	abandonedAfter = 10 * time.Minute
	stackFolder    = "millrace-stack-" // of a stack; its lock tells whether anybody is using it
	testFolder     = "millrace-test-"  // of a test; nothing tells, so it is never cleaned up from outside
)

// shared is a server that the tests of one binary share.
type shared struct {
	once  sync.Once
	stack *local.Stack
	err   error
}

var kafka, postgres shared

// Kafka returns the addresses of the shared Kafka.
func Kafka(t testing.TB) []string {
	t.Helper()
	if addresses := os.Getenv(EnvKafka); addresses != "" {
		return strings.Split(addresses, ",")
	}
	return kafka.get(t, local.Options{Postgres: local.PostgresOptions{Off: true}}).Kafka()
}

// Postgres returns the URL of an empty database of the test's own, which is dropped when the test ends.
func Postgres(t testing.TB) string {
	t.Helper()
	server := os.Getenv(EnvPostgres)
	if server == "" {
		o := local.Options{Kafka: local.KafkaOptions{Off: true}}
		o.Postgres.Settings = map[string]string{"fsync": "off"} // a test's data need not survive the machine
		server = postgres.get(t, o).PostgresURL()
	}
	name := "test_" + strings.ToLower(rand.Text()[:12])
	if err := execute(server, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("a database for the test: %v", err)
	}
	t.Cleanup(func() {
		if err := execute(server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("%s: %v", EnvPostgres, err)
	}
	u.Path = "/" + name
	return u.String()
}

func execute(server, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// Prefix returns a prefix for topics, groups and transactional IDs that no other test uses.
func Prefix(t testing.TB) string {
	t.Helper()
	return "t" + strings.ToLower(rand.Text()[:8]) + "."
}

// Stack starts a stack of the test's own, to hurt: on free ports, in a folder of its own, unless o says otherwise. It ends with the
// test.
func Stack(t testing.TB, o local.Options) *local.Stack {
	t.Helper()
	if o.Dir == "" {
		o.Dir = folder(t, stackFolder)
	}
	s, err := start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopWait)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop the stack: %v", err)
		}
	})
	return s
}

// Dir returns a temporary folder that goes with the test. Unlike t.TempDir, the user that PostgreSQL runs as when we
// are root can pass through it.
func Dir(t testing.TB) string {
	t.Helper()
	return folder(t, testFolder)
}

func folder(t testing.TB, pattern string) string {
	t.Helper()
	dir, err := makeDir(pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Main runs the tests of a package, ends the shared servers and exits: func TestMain(m *testing.M) { localtest.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	if err := errors.Join(kafka.stop(), postgres.stop()); err != nil {
		fmt.Fprintln(os.Stderr, "localtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func (s *shared) get(t testing.TB, o local.Options) *local.Stack {
	t.Helper()
	s.once.Do(func() {
		removeAbandoned()
		if o.Dir, s.err = makeDir(stackFolder); s.err == nil {
			s.stack, s.err = start(o)
		}
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.stack
}

func (s *shared) stop() error {
	if s.stack == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	return errors.Join(s.stack.Stop(ctx), os.RemoveAll(s.stack.Dir()))
}

func start(o local.Options) (*local.Stack, error) {
	if o.Log == nil {
		o.Log = os.Stderr
	}
	if o.Kafka.Port == 0 {
		o.Kafka.Port = anyPort()
	}
	if o.Postgres.Port == 0 {
		o.Postgres.Port = anyPort()
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	return local.Start(ctx, o)
}

// anyPort is where to look for a free one; test binaries that run side by side should not all look at the same place.
func anyPort() int { return 20000 + mrand.IntN(10000) }

func makeDir(pattern string) (string, error) {
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// removeAbandoned removes the folders of test binaries that were killed. One that cannot be removed, another user's
// say, is none of ours.
func removeAbandoned() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), stackFolder+"*")) // the pattern is a good one
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < abandonedAfter {
			continue
		}
		if local.Erase(context.Background(), dir) == nil {
			os.RemoveAll(dir)
		}
	}
}
