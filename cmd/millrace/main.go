// Command millrace is the whole system in one binary: one role per process on a cluster (`millrace serve`), all of
// them in one on a laptop (`millrace up`), and the clients that people use.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: its exit code is 0, 1 for an error, 2 for a command that could not be understood.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "millrace: %v\n", err)
		return 2
	default:
		fmt.Fprintf(stderr, "millrace: %v\n", err)
		return 1
	}
}

// usageError is a command line that contradicts itself.
type usageError string

func (e usageError) Error() string { return string(e) }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "millrace",
		Short:         "An open commerce back end that is a stream pipeline",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), orderCommand(), stockCommand(), tokenCommand(), stackCommand(), prepareCommand(), topicsCommand(), serveCommand(), gatewayCommand())
	understandOrRefuse(root)
	return root
}

// understandOrRefuse makes every word that is not understood a usageError: cobra shows help for a misspelled subcommand, and
// says that all went well.
func understandOrRefuse(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err.Error()) })
	switch check := cmd.Args; {
	case cmd.HasSubCommands() && !cmd.Runnable():
		cmd.Args = cobra.ArbitraryArgs // to be refused here, at every depth
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError(fmt.Sprintf("%s has no command %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath()))
		}
	case check != nil:
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError(fmt.Sprintf("%s: %v", cmd.CommandPath(), err))
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		understandOrRefuse(sub)
	}
}
