package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/simulators/gateway"
)

const (
	gatewayHeaderTimeout = 5 * time.Second
	gatewayStopTimeout   = 5 * time.Second // for requests under way; those that wait or hang are ended first
)

// gatewayCommand runs the payment gateway's simulator on its own.
func gatewayCommand() *cobra.Command {
	settings, listen := gateway.Defaults(), "127.0.0.1:8090"
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Simulate Stripe: payment intents, refunds, test cards, faults, webhooks",
		Long:  gatewayHelp(),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("gateway: %w", err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "gateway: http://%s, %s\n", socket.Addr(), gatewayMemory(settings))
			return serveGateway(cmd.Context(), socket, settings)
		},
	}
	gatewayFlags(cmd, &settings, &listen)
	return cmd
}

func gatewayFlags(cmd *cobra.Command, s *gateway.Settings, listen *string) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(listen, "listen", *listen, "address to serve on")
	f.StringVar(&s.Folder, "folder", s.Folder, "folder of the journal; empty: charges are forgotten when it ends")
	f.DurationVar(&s.Latency, "latency", s.Latency, "added to every request")
	f.DurationVar(&s.Slow, "slow", s.Slow, "how long pm_sim_slow takes")
	f.DurationVar(&s.Pending, "pending", s.Pending, "how long pm_sim_pending and pm_sim_pending_declined are processing")
	f.DurationVar(&s.Hang, "hang", s.Hang, "how long pm_sim_charge_then_timeout is silent before the connection closes")
	f.Float64Var(&s.FaultRate, "fault-rate", s.FaultRate, "share of requests that go wrong: half answer 500 before any effect, half lose the answer after it")
	f.Uint64Var(&s.Seed, "seed", s.Seed, "which requests go wrong: the same seed, the same ones")
	f.StringVar(&s.WebhookURL, "webhook-url", s.WebhookURL, "where webhooks go; empty: nowhere")
	f.StringVar(&s.WebhookSecret, "webhook-secret", s.WebhookSecret, "what webhooks are signed with (whsec_...)")
	f.DurationVar(&s.WebhookPause, "webhook-pause", s.WebhookPause, "before a webhook's second attempt; doubles after each")
	f.DurationVar(&s.KeepKeys, "keep-keys", s.KeepKeys, "how long an idempotency key is remembered")
	f.IntVar(&s.MaxKeys, "max-keys", s.MaxKeys, "idempotency keys remembered at most; then 429")
	f.IntVar(&s.MaxIntents, "max-intents", s.MaxIntents, "payment intents held at most; then 429")
}

func gatewayHelp() string {
	var b strings.Builder
	b.WriteString("A simulator of Stripe's API on Stripe's wire. Point stripe-go at it with any sk_test_ key.\n" +
		"GET /_simulator/health, /_simulator/ledger and /_simulator/requests show what it holds.\n\nCards (payment_method):\n")
	for _, card := range gateway.Cards() {
		fmt.Fprintf(&b, "  %-45s %s\n", card.ID, card.Does)
	}
	return strings.TrimRight(b.String(), "\n")
}

func gatewayMemory(s gateway.Settings) string {
	if s.Folder == "" {
		return "in memory: charges are forgotten when it ends"
	}
	return "journal in " + s.Folder
}

// serveGateway runs a gateway on an open socket until ctx ends. It closes the socket.
func serveGateway(ctx context.Context, socket net.Listener, settings gateway.Settings) error {
	g, err := gateway.Open(settings)
	if err != nil {
		socket.Close()
		return err
	}
	server := &http.Server{Handler: g, ReadHeaderTimeout: gatewayHeaderTimeout}
	served := make(chan error, 1)
	go func() { served <- server.Serve(socket) }()
	select {
	case err = <-served:
		err = fmt.Errorf("gateway: %w", err)
	case <-ctx.Done():
	}
	g.Interrupt()
	grace, cancel := context.WithTimeout(context.Background(), gatewayStopTimeout)
	defer cancel()
	if server.Shutdown(grace) != nil {
		server.Close()
	}
	return errors.Join(err, g.Close())
}
