// Package api is the way in: Connect, gRPC and gRPC-Web on one port. Each handler publishes one command and waits for
// its outcome, or reads one answer. It decides nothing that a processor decides.
//
// A call passes the door (room, token, size: door.go), the interceptor (time, validation, errors: intercept.go) and its
// handler (order.go, inventory.go, watch.go). What a client asks for is understood in place.go, without I/O. Commands go
// out in publish.go; their outcomes come back through the tail of the event topics (tail.go, feed.go). Reads come
// from the tables that the sink writes (store.go), or from the tail when it is ahead (read.go); recall.go says when a
// miss there is a miss. All errors are in one table (errors.go).
//
// The other half is in processors, which decide the commands, and in sinks/postgres.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/api/auth"
	"github.com/millrace/millrace/internal/gen/shop/inventory/v1/inventoryv1connect"
	"github.com/millrace/millrace/internal/gen/shop/order/v1/orderv1connect"
	"github.com/millrace/millrace/topics"
)

// compressFrom is the size from which an answer is compressed for clients that like it: a page, not an order.
const compressFrom = 4 << 10

// Config is all that the API needs to know.
type Config struct {
	Brokers  []string
	Topics   *topics.Table
	Postgres *pgxpool.Pool
	Keys     *auth.Keys
	// Listener is where Run serves; it is closed when Run returns. Nil: Run only reads the log, and somebody else
	// serves Handler.
	Listener net.Listener
	// Ready says whether what the API depends on in this process has recovered; until then health is NOT_SERVING. Nil:
	// nothing.
	Ready   func() bool
	Origins []string // of browsers that may call; empty: all
	Limits  Limits
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Limits bound what one server does at once. Zero fields take the defaults.
type Limits struct {
	Commands  int           // at once; 1,024
	Reads     int           // at once; 1,024
	Streams   int           // server streams at once; 4,096
	Heartbeat time.Duration // between two signs of life of a stream; 15 s
	StreamAge time.Duration // after which a stream ends; 50 s
	StopWait  time.Duration // how long calls may go on after Run was told to stop; 15 s
}

func (l Limits) withDefaults() Limits {
	count := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	wait := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	count(&l.Commands, 1024)
	count(&l.Reads, 1024)
	count(&l.Streams, 4096)
	wait(&l.Heartbeat, 15*time.Second)
	wait(&l.StreamAge, 50*time.Second)
	wait(&l.StopWait, 15*time.Second)
	return l
}

// Server is the API.
type Server struct {
	cfg      Config
	client   *kgo.Client
	tail     *tail
	recall   *recall
	handler  http.Handler
	stopping chan struct{}
}

// New puts the API together. It asks no server yet; Run does.
func New(cfg Config) (*Server, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	client, err := kgo.NewClient(producerOptions(cfg.Brokers)...)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s := &Server{cfg: cfg, client: client, stopping: make(chan struct{})}
	if err := s.assemble(); err != nil {
		client.Close()
		return nil, fmt.Errorf("api: %w", err)
	}
	return s, nil
}

func (s *Server) assemble() error {
	validator, err := protovalidate.New()
	if err != nil {
		return err
	}
	var m *metrics
	unreadable := func(r *kgo.Record, err error) {
		m.unreadable.Inc()
		s.cfg.Log.Error("unreadable event", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
	}
	s.tail = &tail{
		brokers: s.cfg.Brokers, log: s.cfg.Log, admin: kadm.NewClient(s.client),
		orders:    newFeed(s.cfg.Topics.OrderEvents, unreadable),
		inventory: newFeed(s.cfg.Topics.InventoryEvents, unreadable),
	}
	s.recall = &recall{admin: s.tail.admin, topic: s.cfg.Topics.OrderEvents.Topic, forget: s.cfg.Topics.Delays.Forget}
	if m, err = newMetrics(s.cfg.Metrics, s.tail.waiting, s.tail.watched); err != nil {
		return err
	}
	around := &interceptor{log: s.cfg.Log, metrics: m, validate: validator}
	s.handler = s.routes(m, handlerOptions(around))
	return nil
}

// handlerOptions are those of every handler. The interceptor is outside of the recovery, so that a panic is measured
// and told like any error.
func handlerOptions(around *interceptor) []connect.HandlerOption {
	return append(codecs(),
		connect.WithReadMaxBytes(requestBytesMax),
		connect.WithCompressMinBytes(compressFrom),
		connect.WithInterceptors(around),
		connect.WithRecover(around.panicked),
	)
}

func (s *Server) routes(m *metrics, options []connect.HandlerOption) http.Handler {
	read := reader{
		store: store{s.cfg.Postgres}, tail: s.tail, recall: s.recall, sinkGroup: s.cfg.Topics.Group(topics.PostgresSinkGroup),
	}
	live := streams{stopping: s.stopping, heartbeat: s.cfg.Limits.Heartbeat, age: s.cfg.Limits.StreamAge}
	d := &door{
		up: s.up, keys: s.cfg.Keys, metrics: m, write: connect.NewErrorWriter(options...),
		command: make(chan struct{}, s.cfg.Limits.Commands), read: make(chan struct{}, s.cfg.Limits.Reads),
		stream: make(chan struct{}, s.cfg.Limits.Streams),
	}
	mux := http.NewServeMux()
	service := func(path string, h http.Handler) { mux.Handle(path, d.wrap(h, options)) }
	service(orderv1connect.NewOrderServiceHandler(
		&orders{client: s.client, commands: s.cfg.Topics.OrderCommands, read: read, streams: live}, options...))
	service(inventoryv1connect.NewInventoryServiceHandler(
		&inventory{client: s.client, commands: s.cfg.Topics.InventoryCommands, read: read, streams: live, now: time.Now}, options...))
	// Health and reflection say nothing about anybody: they need no token.
	reflector := grpcreflect.NewStaticReflector(orderv1connect.OrderServiceName, inventoryv1connect.InventoryServiceName, grpchealth.HealthV1ServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
	mux.Handle(grpchealth.NewHandler(health{s.Ready}))
	return crossOrigin(s.cfg.Origins, mux)
}

// Handler serves all services. It needs Run to be running.
func (s *Server) Handler() http.Handler { return s.handler }

// Ready says whether calls can be served: what the API depends on has recovered, and it has caught up with the log.
func (s *Server) Ready() bool {
	select {
	case <-s.stopping:
		return false
	default:
		return (s.cfg.Ready == nil || s.cfg.Ready()) && s.up()
	}
}

// up says whether everything that calls need to know of the log is known.
func (s *Server) up() bool { return s.tail.up() && s.recall.up() }

// Run reads the log, and serves if there is a listener, until ctx ends. Then streams end, calls have StopWait to
// finish, and only then does the log go quiet. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	defer s.client.Close()
	reading, stopReading := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReading()
	tailed := make(chan error, 1)
	go func() { tailed <- s.tail.run(reading) }()
	go s.recall.run(reading)
	served := make(chan error, 1)
	server := s.httpServer()
	if s.cfg.Listener != nil {
		go func() { served <- server.Serve(s.cfg.Listener) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
	case err = <-tailed:
		tailed <- nil
	}
	close(s.stopping)
	err = errors.Join(err, s.stop(ctx, server))
	stopReading()
	return errors.Join(err, <-tailed)
}

// stop lets calls finish. Those that do not in time are cut off: their commands are in the log all the same.
func (s *Server) stop(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Limits.StopWait)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.cfg.Log.Warn("calls were cut off", "after", s.cfg.Limits.StopWait)
		return server.Close()
	}
	return err
}

func (s *Server) httpServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s.handler,
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
}

// health tells grpc.health.v1 of each service whether it can be used.
type health struct{ ready func() bool }

func (h health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	switch req.Service {
	case "", orderv1connect.OrderServiceName, inventoryv1connect.InventoryServiceName:
	default:
		return nil, refuse(NotFound, "there is no service %s", req.Service).wire()
	}
	if !h.ready() {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}
