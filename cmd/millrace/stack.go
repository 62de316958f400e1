package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/local"
)

// stackCommand runs Kafka and Postgres alone, for tests and for roles that are started one by one.
func stackCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{Use: "stack", Short: "Run Kafka and Postgres on this machine, without the roles"}
	dataFlag(cmd.PersistentFlags(), &data, "data folder; unset: the user's own")
	cmd.AddCommand(stackUpCommand(&data), stackDownCommand(&data), stackEnvCommand(&data), stackStatusCommand(&data))
	return cmd
}

func stackUpCommand(data *string) *cobra.Command {
	var o local.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Fetch them if need be, start them, and stay until Ctrl-C",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Dir, o.Log = *data, cmd.ErrOrStderr()
			return stackUp(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Detach, "detach", false, "leave them running; millrace stack down ends them")
	f.IntVar(&o.Kafka.Brokers, "brokers", 1, "Kafka brokers; from 3 on, three replicas and two in sync")
	f.IntVar(&o.Kafka.HeapMB, "kafka-heap", 0, "heap of each broker in MB; unset: small")
	f.IntVar(&o.Kafka.Port, "kafka-port", 0, "first port of Kafka; unset: 9092 or the next free one")
	f.IntVar(&o.Postgres.Port, "postgres-port", 0, "port of Postgres; unset: 5433 or the next free one")
	return cmd
}

func stackUp(ctx context.Context, o local.Options, out io.Writer) error {
	s, err := local.Start(ctx, o)
	if err != nil {
		return err
	}
	printParts(out, s.Parts(), nil)
	if o.Detach {
		return s.Leave()
	}
	return errors.Join(s.Wait(ctx), s.Stop(context.WithoutCancel(ctx)))
}

func stackDownCommand(data *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End what runs from the data folder",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return local.Down(cmd.Context(), *data) },
	}
}

func stackEnvCommand(data *string) *cobra.Command {
	var tests bool
	cmd := &cobra.Command{
		Use: "env", Short: `Print the addresses as shell variables: eval "$(millrace stack env)"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			run, err := local.FindRun(*data)
			if err != nil {
				return err
			}
			printEnv(cmd.OutOrStdout(), run, tests)
			return nil
		},
	}
	cmd.Flags().BoolVar(&tests, "tests", false, "as the variables by which go test finds servers to share")
	return cmd
}

func printEnv(out io.Writer, run local.Run, tests bool) {
	prefix := "MILLRACE_"
	if tests {
		prefix = "MILLRACE_TEST_"
	}
	if len(run.Kafka) > 0 {
		fmt.Fprintf(out, "export %sKAFKA=%s\n", prefix, shellQuote(strings.Join(run.Kafka, ",")))
	}
	if run.Postgres != "" {
		fmt.Fprintf(out, "export %sPOSTGRES=%s\n", prefix, shellQuote(run.Postgres))
	}
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func stackStatusCommand(data *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs from the data folder",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			run, err := local.FindRun(*data)
			if err != nil {
				return err
			}
			printParts(cmd.OutOrStdout(), run.Parts, run.Alive)
			return nil
		},
	}
}

// printParts is the table of what runs where. With alive, processes that have ended are marked.
func printParts(out io.Writer, parts []local.Part, alive func(pid int) bool) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PART\tWHAT\tKIND\tADDRESS\tPROCESS")
	for _, p := range parts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Version, p.Kind, p.Address, processColumn(p.PIDs, alive))
	}
	w.Flush()
	for _, p := range parts {
		if p.Note != "" {
			fmt.Fprintf(out, "%s is a %s: %s.\n", p.Name, p.Kind, p.Note)
		}
	}
}

func processColumn(pids []int, alive func(pid int) bool) string {
	var column []string
	for _, pid := range pids {
		text := fmt.Sprint(pid)
		if alive != nil && !alive(pid) {
			text += " (ended)"
		}
		column = append(column, text)
	}
	return strings.Join(column, ", ")
}
