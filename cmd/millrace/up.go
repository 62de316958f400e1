package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/simulators/gateway"
)

const (
	gatewayListen  = "127.0.0.1:8090"
	gatewayLatency = 30 * time.Millisecond // a gateway is somewhere else
	gatewayFolder  = "gateway"
	logFile        = "millrace.log"
	readyWithin    = 2 * time.Minute
)

// up is everything on one machine: the servers, the roles, the simulators, in one process and its children.
type up struct {
	config
	fresh    bool
	out, err io.Writer

	stack   *local.Stack
	gateway net.Listener
	api     net.Listener
	metrics net.Listener
	log     *os.File
}

func upCommand() *cobra.Command {
	u := &up{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run everything on this machine: servers, roles, a payment gateway, a sample shop",
		Long: `Run everything on this machine until Ctrl-C. Kafka and Postgres are fetched the first time (about 60 MB) and run as child
processes; --kafka and --postgres use servers that run already. Where there is no Java, a stand-in takes Kafka's place, and
it says so. What it knows is in --data: up again goes on where it stopped, up --fresh starts over.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u.out, u.err = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := fromEnvironment(cmd.Flags()); err != nil {
				return err
			}
			if err := u.check(); err != nil {
				return err
			}
			return u.run(cmd.Context())
		},
	}
	u.register(cmd.Flags())
	cmd.Flags().BoolVar(&u.fresh, "fresh", false, "forget everything that was there: log, tables, charges")
	return cmd
}

func (u *up) run(ctx context.Context) (err error) {
	if err := u.clean(ctx); err != nil {
		return err
	}
	if err := u.startServers(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.stack.Stop(context.WithoutCancel(ctx))) }()
	if err := u.listen(); err != nil {
		return err
	}
	if err := prepare(ctx, u.config, true, io.Discard); err != nil {
		return err
	}
	log, err := u.openLog()
	if err != nil {
		return err
	}
	defer u.log.Close()
	return u.serve(ctx, log)
}

func (u *up) clean(ctx context.Context) error {
	if !u.fresh {
		return nil
	}
	if err := local.Erase(ctx, u.Data); err != nil {
		return err
	}
	for _, folder := range []string{tablesFolder, gatewayFolder} {
		if err := os.RemoveAll(filepath.Join(u.Data, folder)); err != nil {
			return err
		}
	}
	return nil
}

func (u *up) startServers(ctx context.Context) (err error) {
	u.stack, err = local.Start(ctx, local.Options{
		Dir: u.Data, Log: u.err,
		Kafka:    local.KafkaOptions{External: u.Kafka, StandIn: true},
		Postgres: local.PostgresOptions{External: u.Postgres},
	})
	if err != nil {
		return err
	}
	u.Kafka, u.Postgres = u.stack.Kafka(), u.stack.PostgresURL()
	return nil
}

// listen takes the ports, the next free ones where they are taken.
func (u *up) listen() (err error) {
	if u.api, err = listenNear(u.Listen); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if u.Metrics != "" {
		if u.metrics, err = listenNear(u.Metrics); err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
	}
	if u.GatewayURL == "" && u.GatewayKey == "" {
		if u.gateway, err = listenNear(gatewayListen); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		u.GatewayURL, u.GatewayKey = "http://"+u.gateway.Addr().String(), simulatorKey
	}
	return nil
}

// listenNear listens on the address, or on the next port that is free.
func listenNear(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	const tries = 100
	for i := range tries {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(n+i)))
		if err == nil || i == tries-1 {
			return l, err
		}
	}
	return nil, errors.New("no port is free")
}

// openLog keeps the terminal for people: everything goes to a file.
func (u *up) openLog() (log *slog.Logger, err error) {
	u.log, err = os.OpenFile(filepath.Join(u.Data, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(u.log, nil)), nil
}

// serve runs everything beside the servers until the context ends.
func (u *up) serve(ctx context.Context, log *slog.Logger) error {
	s, err := newServices(ctx, u.config, log)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	s.socket = u.api
	all, err := findRoles(roleNames())
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.stack.Wait(ctx) })
	g.Go(func() error { return s.runRoles(ctx, all, u.metrics) })
	if u.gateway != nil {
		g.Go(func() error { return u.serveGateway(ctx) })
	}
	g.Go(func() error { return u.welcome(ctx) })
	return g.Wait()
}

func (u *up) serveGateway(ctx context.Context) error {
	settings := gateway.Defaults()
	settings.Folder, settings.Latency = filepath.Join(u.Data, gatewayFolder), gatewayLatency
	return serveGateway(ctx, u.gateway, settings)
}
