package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/topics"
)

// topicsCommand is for people who run the log, and for people who read it.
func topicsCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{Use: "topics", Short: "Create, compare, list and read the topics"}
	f := cmd.PersistentFlags()
	f.StringSliceVar(&c.Kafka, "kafka", nil, "addresses of the Kafka brokers; unset: the running stack's")
	f.StringVar(&c.Prefix, "prefix", "", "put before every topic and group")
	f.StringVar(&c.Data, "data", "", "data folder of the running stack; unset: the user's own")
	f.Int32Var(&c.Partitions, "partitions", topics.DefaultPartitions, "partitions of every topic; fixed when they are created")
	f.Int16Var(&c.Replicas, "replicas", 1, "replicas of every topic; with 3, two must be in sync")
	cmd.AddCommand(topicsPlanCommand(c), topicsApplyCommand(c), topicsListCommand(c), topicsCatCommand(c))
	return cmd
}

func topicsPlanCommand(c *config) *cobra.Command {
	return &cobra.Command{
		Use: "plan", Short: "Say how the cluster differs from the table of topics; change nothing",
		Long: "Say how the cluster differs from the table of topics, one sentence each, and change nothing. It ends with 1 when it differs.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withAdmin(cmd, func(ctx context.Context, adm *kadm.Client) error {
				if err := topics.Check(ctx, adm, c.table(), c.cluster()); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "the cluster is as the table says")
				return err
			})
		},
	}
}

func topicsApplyCommand(c *config) *cobra.Command {
	return &cobra.Command{
		Use: "apply", Short: "Create the topics that are missing, and commit the first offset of every group that has none",
		Long: `Create the topics that are missing, and commit the first offset of every group that has none. What is there is never
changed and no offset is ever moved: a topic that differs is an error, named, and then nothing is done.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withAdmin(cmd, func(ctx context.Context, adm *kadm.Client) error {
				did, err := topics.Apply(ctx, adm, c.table(), c.cluster())
				if err != nil {
					return err
				}
				printApplied(cmd.OutOrStdout(), did)
				return nil
			})
		},
	}
}

func printApplied(out io.Writer, did topics.Plan) {
	for _, t := range did.Create {
		fmt.Fprintf(out, "created %s with %d partitions\n", t.Name, t.Partitions)
	}
	for _, o := range did.Offsets {
		fmt.Fprintf(out, "group %s begins at 0 of %s%v\n", o.Group, o.Topic, o.Partitions)
	}
	if did.Empty() {
		fmt.Fprintln(out, "nothing to do: the cluster is as the table says")
	}
}

func topicsListCommand(c *config) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show every topic: what it carries, who writes and reads it, and how far behind the readers are",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withAdmin(cmd, func(ctx context.Context, adm *kadm.Client) error {
				return printTopics(ctx, adm, c.table(), cmd.OutOrStdout())
			})
		},
	}
}

// withAdmin completes the configuration and connects.
func (c *config) withAdmin(cmd *cobra.Command, do func(context.Context, *kadm.Client) error) error {
	if err := c.completeKafka(cmd); err != nil {
		return err
	}
	adm, err := topics.NewAdmin(c.Kafka)
	if err != nil {
		return err
	}
	defer adm.Close()
	return do(cmd.Context(), adm)
}

// completeKafka is complete for commands that need no Postgres.
func (c *config) completeKafka(cmd *cobra.Command) error {
	if err := fromEnvironment(cmd.Flags()); err != nil {
		return err
	}
	if c.Partitions < 1 || c.Partitions > 10_000 {
		return usageError("--partitions is 1 to 10,000")
	}
	if len(c.Kafka) > 0 {
		return nil
	}
	running, err := local.FindRun(c.Data)
	if err != nil {
		return fmt.Errorf("--kafka is not set, and %w: see `millrace up` and `millrace stack up`", err)
	}
	c.Kafka = running.Kafka
	return nil
}

func printTopics(ctx context.Context, adm *kadm.Client, t *topics.Table, out io.Writer) error {
	meta, err := adm.ListTopics(ctx)
	if err != nil {
		return err
	}
	groups := map[string]kadm.GroupLag{}
	for _, topic := range t.All() {
		for _, r := range topic.Readers {
			groups[t.Group(r)] = nil
		}
	}
	for g := range groups {
		if groups[g], err = lagOf(ctx, adm, g); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tKEY\tMESSAGE\tPARTITIONS\tKEPT\tWRITER\tREADERS (OFFSETS BEHIND)")
	for _, topic := range t.All() {
		partitions := "missing"
		if d, ok := meta[topic.Name]; ok {
			partitions = fmt.Sprint(len(d.Partitions))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", topic.Name, topic.KeyedBy, orDash(topic.Type()), partitions, kept(topic), topic.Writer, readersOf(t, topic, groups))
	}
	return w.Flush()
}

func lagOf(ctx context.Context, adm *kadm.Client, group string) (kadm.GroupLag, error) {
	lags, err := adm.Lag(ctx, group)
	if err != nil {
		return nil, err
	}
	return lags[group].Lag, nil
}

// readersOf counts offsets, and so the markers of transactions with the records.
func readersOf(t *topics.Table, topic topics.Topic, groups map[string]kadm.GroupLag) string {
	var readers []string
	for _, r := range topic.Readers {
		behind := int64(0)
		for _, p := range groups[t.Group(r)][topic.Name] {
			behind += max(p.Lag, 0)
		}
		readers = append(readers, fmt.Sprintf("%s (%d)", r, behind))
	}
	return orDash(strings.Join(readers, ", "))
}

func kept(t topics.Topic) string {
	switch {
	case t.Compacted:
		return "newest by key"
	case t.Retention == topics.Forever:
		return "for ever"
	}
	return fmt.Sprintf("%d d", t.Retention/(24*time.Hour))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
