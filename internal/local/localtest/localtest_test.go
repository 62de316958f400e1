package localtest_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
)

func TestMain(m *testing.M) { localtest.Main(m) }

func TestKafkaIsSharedAndAnswers(t *testing.T) {
	first, second := localtest.Kafka(t), localtest.Kafka(t)
	if first[0] != second[0] {
		t.Errorf("two servers in one binary: %v and %v", first, second)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(first...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		t.Error(err)
	}
}

func TestPostgresDatabasesAreApart(t *testing.T) {
	one, other := connect(t, localtest.Postgres(t)), connect(t, localtest.Postgres(t))
	if _, err := one.Exec(t.Context(), "CREATE TABLE mine (n int)"); err != nil {
		t.Fatal(err)
	}
	var there bool
	if err := other.QueryRow(t.Context(), "SELECT to_regclass('mine') IS NOT NULL").Scan(&there); err != nil {
		t.Fatal(err)
	}
	if there {
		t.Error("a table of one test is in another's database")
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

func TestNamedServersAreUsed(t *testing.T) {
	server := localtest.Stack(t, local.Options{Kafka: local.KafkaOptions{Off: true}}).PostgresURL()
	t.Setenv(localtest.EnvPostgres, server)
	t.Setenv(localtest.EnvKafka, "one:1,two:2")
	if got := localtest.Kafka(t); !slices.Equal(got, []string{"one:1", "two:2"}) {
		t.Errorf("Kafka is %v", got)
	}
	var port string
	if err := connect(t, localtest.Postgres(t)).QueryRow(t.Context(), "SHOW port").Scan(&port); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(server, ":"+port+"/") {
		t.Errorf("a database on port %s, not on %s", port, server)
	}
}
