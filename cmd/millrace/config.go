package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/topics"
)

// config is everything a role needs to know. It is read once: flags, else the environment, else the defaults.
type config struct {
	Kafka      []string
	Postgres   string
	Prefix     string
	Data       string
	Partitions int32
	Instance   int
	Listen     string
	Metrics    string
	GatewayURL string
	GatewayKey string
	Commit     time.Duration
	Session    time.Duration
	Delays     topics.Delays
	Replicas   int16
}

// simulatorKey is what our gateway simulator takes for a secret key. It opens nothing else.
const simulatorKey = "sk_test_millrace"

func (c *config) register(f *pflag.FlagSet) {
	f.StringSliceVar(&c.Kafka, "kafka", nil, "addresses of the Kafka brokers; unset: the running stack's")
	f.StringVar(&c.Postgres, "postgres", "", "URL of Postgres; unset: the running stack's")
	f.StringVar(&c.Prefix, "prefix", "", "put before every topic, group and transactional ID")
	f.StringVar(&c.Data, "data", "", "folder of keys and of the processors' local tables; unset: the user's own")
	f.Int32Var(&c.Partitions, "partitions", topics.DefaultPartitions, "partitions of every topic; fixed when they are created")
	f.Int16Var(&c.Replicas, "replicas", 1, "replicas of every topic; with 3, two must be in sync")
	f.IntVar(&c.Instance, "instance", 0, "which instance of its role this is, from 0: its place in the group and its folder")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "where the API listens")
	f.StringVar(&c.Metrics, "metrics", "127.0.0.1:9090", "where metrics and health are served; empty: nowhere")
	f.StringVar(&c.GatewayURL, "gateway-url", "", "the payment gateway; unset: Stripe")
	f.StringVar(&c.GatewayKey, "gateway-key", "", "the secret key at the payment gateway")
	f.DurationVar(&c.Commit, "commit-interval", 100*time.Millisecond, "the longest that a processor's transaction stays open; it ends sooner when all that came is decided")
	f.DurationVar(&c.Session, "session-timeout", 10*time.Second, "after how long without a sign of life a member leaves its group")
	f.DurationVar(&c.Delays.Payment, "payment-deadline", 15*time.Minute, "how long an order may wait for stock, then for payment, and, when it is ending, until it asks the gateway again")
	f.DurationVar(&c.Delays.Poll, "poll-delay", 2*time.Second, "until the gateway is asked again about a pending payment")
	f.DurationVar(&c.Delays.Retry, "retry-delay", 5*time.Second, "until a step that could not reach the gateway is tried again")
}

// fromEnvironment gives every flag that was not set the value of its variable: --gateway-url is MILLRACE_GATEWAY_URL.
func fromEnvironment(f *pflag.FlagSet) error {
	var errs []error
	f.VisitAll(func(flag *pflag.Flag) {
		name := "MILLRACE_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		if v, ok := os.LookupEnv(name); ok && !flag.Changed {
			if err := f.Set(flag.Name, v); err != nil {
				errs = append(errs, usageError(fmt.Sprintf("%s: %v", name, err)))
			}
		}
	})
	return errors.Join(errs...)
}

// complete reads the environment and fills in what the running stack knows.
func (c *config) complete(cmd *cobra.Command) error {
	if err := fromEnvironment(cmd.Flags()); err != nil {
		return err
	}
	if len(c.Kafka) == 0 || c.Postgres == "" {
		if err := c.fromRunningStack(); err != nil {
			return err
		}
	}
	return c.check()
}

// check says what contradicts itself, and names the data folder.
func (c *config) check() error {
	if c.Data == "" {
		var err error
		if c.Data, err = local.DataDir(); err != nil {
			return err
		}
	}
	var errs []error
	refuse := func(bad bool, why string) {
		if bad {
			errs = append(errs, usageError(why))
		}
	}
	refuse(c.Partitions < 1 || c.Partitions > 10_000, "--partitions is 1 to 10,000")
	refuse(c.Instance < 0 || c.Instance > 999, "--instance is 0 to 999")
	refuse(c.Commit < time.Millisecond || c.Commit > time.Second, "--commit-interval is 1 ms to 1 s")
	refuse(c.Delays.Payment <= 0 || c.Delays.Poll <= 0 || c.Delays.Retry <= 0, "the delays are longer than nothing")
	refuse(c.GatewayURL == "" && strings.HasPrefix(c.GatewayKey, simulatorKey), "the simulator's key goes with --gateway-url: Stripe does not know it")
	return errors.Join(errs...)
}

func (c *config) fromRunningStack() error {
	r, err := local.FindRun(c.Data)
	if err != nil {
		return fmt.Errorf("--kafka and --postgres are not set, and %w: see `millrace up` and `millrace stack up`", err)
	}
	if len(c.Kafka) == 0 {
		c.Kafka = r.Kafka
	}
	if c.Postgres == "" {
		c.Postgres = r.Postgres
	}
	return nil
}

func (c *config) table() *topics.Table {
	return topics.New(topics.Options{Prefix: c.Prefix, Partitions: c.Partitions, Delays: c.Delays})
}

// dataFlag is --data of the commands beside a running stack: what MILLRACE_DATA says to `up`, it says to them.
func dataFlag(f *pflag.FlagSet, data *string, about string) {
	f.StringVar(data, "data", env("MILLRACE_DATA", ""), about)
}

// env is a variable of the environment, or what holds without it.
func env(name, without string) string {
	if v, ok := os.LookupEnv(name); ok {
		return v
	}
	return without
}

// runningAPI is the URL of the API that the running `millrace up` serves.
func runningAPI(data string) (string, error) {
	r, err := local.FindRun(data)
	if err != nil {
		return "", fmt.Errorf("--api is not set, and %w", err)
	}
	if r.Also["api"] == "" {
		return "", errors.New("--api is not set, and only servers run here, no API: see `millrace up`")
	}
	return r.Also["api"], nil
}
