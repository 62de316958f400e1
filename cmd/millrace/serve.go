package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/sinks/postgres"
	"github.com/millrace/millrace/topics"
)

func serveCommand() *cobra.Command {
	var c config
	var level string
	cmd := &cobra.Command{
		Use:   "serve ROLE ...",
		Short: "Run roles in this process, against servers that run already",
		Long:  "Run roles in this process, against servers that run already. Every flag is also a variable: --gateway-url is MILLRACE_GATEWAY_URL.\n\nRoles:\n" + rolesHelp(),
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := findRoles(args)
			if err != nil {
				return err
			}
			if err := c.complete(cmd); err != nil {
				return err
			}
			log, err := logger(cmd.ErrOrStderr(), level)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, wanted, log)
		},
	}
	c.register(cmd.Flags())
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func rolesHelp() string {
	var b strings.Builder
	for _, r := range roles {
		fmt.Fprintf(&b, "  %-14s %s\n", r.name, r.about)
	}
	return strings.TrimRight(b.String(), "\n")
}

func serve(ctx context.Context, c config, wanted []role, log *slog.Logger) error {
	s, err := newServices(ctx, c, log)
	if err != nil {
		return err
	}
	defer s.pool.Close()
	if slices.ContainsFunc(wanted, func(r role) bool { return r.name == "api" }) {
		if s.socket, err = net.Listen("tcp", c.Listen); err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		log.Info("api", "listen", s.socket.Addr().String())
	}
	var metrics net.Listener
	if c.Metrics != "" {
		if metrics, err = net.Listen("tcp", c.Metrics); err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
		log.Info("metrics", "listen", metrics.Addr().String())
	}
	return s.runRoles(ctx, wanted, metrics)
}

func logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError(fmt.Sprintf("--log-level: %q is none of debug, info, warn, error", level))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

func prepareCommand() *cobra.Command {
	var c config
	var sample bool
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Create the topics with their first offsets, and the tables; what is there stays as it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(cmd); err != nil {
				return err
			}
			return prepare(cmd.Context(), c, sample, cmd.OutOrStdout())
		},
	}
	c.register(cmd.Flags())
	cmd.Flags().BoolVar(&sample, "sample", false, "load the sample catalogue too")
	return cmd
}

// prepare makes the servers ready for the roles. It can be run again, and by several at once.
func prepare(ctx context.Context, c config, sample bool, out io.Writer) error {
	adm, err := topics.NewAdmin(c.Kafka)
	if err != nil {
		return err
	}
	defer adm.Close()
	made, err := topics.Apply(ctx, adm, c.table(), c.cluster())
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "topics: %d created, %d first offsets committed\n", len(made.Create), len(made.Offsets))
	if err := postgres.Setup(ctx, c.Postgres, c.table()); err != nil {
		return err
	}
	fmt.Fprintln(out, "postgres: the tables are as this version needs them")
	if !sample {
		return nil
	}
	return loadSample(ctx, c.Postgres, out)
}
