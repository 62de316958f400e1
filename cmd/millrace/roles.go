package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/api"
	"github.com/millrace/millrace/api/auth"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/sinks/postgres"
	"github.com/millrace/millrace/topics"
	"github.com/millrace/millrace/workers/payment"
	"github.com/millrace/millrace/workers/timers"
)

// role is one part of the system that can be a process of its own.
type role struct {
	name, about string
	build       func(*services) (runner, error)
}

// runner is a role, built: it runs until its context ends, which is no error.
type runner interface{ Run(context.Context) error }

// roles are what `serve` knows, in the order in which an order passes them.
var roles = []role{
	{"api", "takes calls over Connect, gRPC and gRPC-Web", buildAPI},
	{"order", "carries orders through stock and payment", processor(topics.OrderGroup)},
	{"inventory", "decides who gets the stock", processor(topics.InventoryGroup)},
	{"payment", "asks the payment gateway", buildPayment},
	{"timers", "gives each delay back when it is over", buildTimers},
	{"sink-postgres", "writes orders, payments and stock to Postgres", buildPostgresSink},
}

// services is what roles are built with.
type services struct {
	config
	topics  *topics.Table
	pool    *pgxpool.Pool
	log     *slog.Logger
	metrics *prometheus.Registry
	socket  net.Listener // the API's; nil where no API runs
	ready   []func() bool
}

func newServices(ctx context.Context, c config, log *slog.Logger) (*services, error) {
	pool, err := pgxpool.New(ctx, c.Postgres)
	if err != nil {
		return nil, fmt.Errorf("--postgres: %w", err)
	}
	s := &services{config: c, topics: c.table(), pool: pool, log: log, metrics: prometheus.NewRegistry()}
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s, nil
}

func (s *services) allReady() bool {
	for _, ready := range s.ready {
		if !ready() {
			return false
		}
	}
	return true
}

func buildAPI(s *services) (runner, error) {
	keys, err := auth.Open(filepath.Join(s.Data, "keys"))
	if err != nil {
		return nil, err
	}
	others := s.ready // what runs in this process besides the API
	recovered := func() bool {
		for _, ready := range others {
			if !ready() {
				return false
			}
		}
		return true
	}
	a, err := api.New(api.Config{
		Brokers: s.Kafka, Topics: s.topics, Postgres: s.pool, Keys: keys, Listener: s.socket, Ready: recovered, Log: s.log, Metrics: s.metrics,
	})
	if err != nil {
		return nil, err
	}
	s.ready = append(s.ready, a.Ready)
	return a, nil
}

func processor(group string) func(*services) (runner, error) {
	return func(s *services) (runner, error) {
		p, err := processors.New(processors.Config{
			Brokers: s.Kafka, Topics: s.topics, Group: group, DataDir: filepath.Join(s.Data, tablesFolder), Ordinal: s.Instance,
			CommitInterval: s.Commit, SessionTimeout: s.Session, Log: s.log, Metrics: s.metrics,
		})
		if err != nil {
			return nil, err
		}
		s.ready = append(s.ready, p.Ready)
		return p, nil
	}
}

// tablesFolder holds the local copies of the processors' tables, below the data folder. Kafka can replace them.
const tablesFolder = "tables"

func buildPayment(s *services) (runner, error) {
	return payment.New(payment.Config{
		Brokers: s.Kafka, Topics: s.topics, Ordinal: s.Instance, Log: s.log, Metrics: s.metrics,
		Key: s.GatewayKey, URL: s.GatewayURL, SessionTimeout: s.Session,
	})
}

func buildTimers(s *services) (runner, error) {
	return timers.New(timers.Config{
		Brokers: s.Kafka, Topics: s.topics, Ordinal: s.Instance, Log: s.log, Metrics: s.metrics, SessionTimeout: s.Session,
	})
}

func buildPostgresSink(s *services) (runner, error) {
	return sinks.New(sinks.Config{
		Brokers: s.Kafka, Topics: s.topics, Store: postgres.New(s.pool, s.topics), Log: s.log, Metrics: s.metrics, SessionTimeout: s.Session,
	})
}

// findRoles are the roles of these names; the API last, because it waits for what runs beside it.
func findRoles(names []string) ([]role, error) {
	var found []role
	var takesCalls bool
	for _, name := range names {
		r, ok := roleNamed(name)
		if !ok {
			return nil, usageError(fmt.Sprintf("%q is no role; there are %s", name, strings.Join(roleNames(), ", ")))
		}
		if r.name == "api" {
			takesCalls = true
			continue
		}
		found = append(found, r)
	}
	if takesCalls {
		found = append(found, roles[0])
	}
	return found, nil
}

func roleNamed(name string) (role, bool) {
	for _, r := range roles {
		if r.name == name {
			return r, true
		}
	}
	return role{}, false
}

func roleNames() []string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = r.name
	}
	return names
}

// runRoles checks the topics, then runs the roles and the metrics beside them until the context ends or one of them fails.
func (s *services) runRoles(ctx context.Context, wanted []role, metrics net.Listener) error {
	if err := s.checkTopics(ctx); err != nil {
		return err
	}
	built := make([]runner, len(wanted)) // all, before any runs: one that cannot be built must not cut others off
	for i, r := range wanted {
		var err error
		if built[i], err = r.build(s); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, r := range wanted {
		g.Go(func() error {
			if err := built[i].Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			if ctx.Err() == nil {
				return fmt.Errorf("%s ended by itself", r.name)
			}
			return nil
		})
	}
	if metrics != nil {
		g.Go(func() error { return s.serveMetrics(ctx, metrics) })
	}
	return g.Wait()
}

func (s *services) checkTopics(ctx context.Context) error {
	adm, err := topics.NewAdmin(s.Kafka)
	if err != nil {
		return err
	}
	defer adm.Close()
	return topics.Check(ctx, adm, s.topics, s.cluster())
}

// cluster is what the topics must have besides the table: with three replicas, two in sync.
func (c *config) cluster() topics.Cluster {
	inSync := 1
	if c.Replicas >= 3 {
		inSync = 2
	}
	return topics.Cluster{ReplicationFactor: c.Replicas, MinInSync: inSync}
}

const metricsStop = 2 * time.Second

func (s *services) serveMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.allReady() {
			http.Error(w, "not ready: tables are being read back, or the log caught up with", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), metricsStop)
		defer cancel()
		_ = server.Shutdown(stop) // a scrape that is cut off is no loss
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
