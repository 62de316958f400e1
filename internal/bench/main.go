// Command bench measures Millrace against its peers in one run on one machine: `make bench`. Each workload prints a
// table and writes bench-results/<name>.json. What is compared, what it means and where the time goes is in
// docs/benchmarks.md. Figures are ratios first: the machine is whatever it is.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"text/tabwriter"
)

// result is what a workload writes.
type result struct {
	Workload string             `json:"workload"`
	Commit   string             `json:"commit"`
	Figures  map[string]float64 `json:"figures"`
	Ratios   map[string]float64 `json:"ratios"`
}

type workload struct {
	name, about string
	run         func(ctx context.Context, b *bench) (result, error)
}

var workloads = []workload{
	{"reserve", "1,000,000 reserve commands, against Goka as shipped and a stateless pass-through", reserve},
	{"latency", "one hop at 500 commands a second", latency},
	{"recovery", "a table of 1,000,000 SKUs read back, cold and warm", recovery},
	{"orders", "two-line orders through the whole system", orders},
}

// bench is what the workloads share.
type bench struct {
	out      io.Writer
	commands int
	runs     int
	seconds  int
	profile  string
	dir      string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	b := &bench{out: out}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := f.String("workload", "", "only this one: "+strings.Join(names(), ", "))
	f.IntVar(&b.commands, "commands", 1_000_000, "commands of reserve, and SKUs of recovery")
	f.IntVar(&b.runs, "runs", 3, "runs of each side; the median counts")
	f.IntVar(&b.seconds, "seconds", 60, "how long a rate must hold in orders")
	f.StringVar(&b.profile, "profile", "", "folder for CPU profiles of the processor")
	child := f.String("child", "", "used by bench itself: be one side of a workload")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *child != "" {
		return runChild(ctx, *child)
	}
	if *only != "" && !slices.Contains(names(), *only) {
		return fmt.Errorf("%q is no workload: %s", *only, strings.Join(names(), ", "))
	}
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the user that Postgres runs as must pass
		return err
	}
	b.dir = dir
	for _, w := range workloads {
		if *only == "" || *only == w.name {
			if err := b.measure(ctx, w); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	return nil
}

func names() []string {
	var all []string
	for _, w := range workloads {
		all = append(all, w.name)
	}
	return all
}

func (b *bench) measure(ctx context.Context, w workload) error {
	fmt.Fprintf(b.out, "%s: %s\n", w.name, w.about)
	r, err := w.run(ctx, b)
	if err != nil {
		return err
	}
	r.Workload, r.Commit = w.name, commit()
	b.print(r)
	return write(r)
}

func (b *bench) print(r result) {
	w := tabwriter.NewWriter(b.out, 0, 0, 3, ' ', 0)
	for _, part := range []struct {
		what   string
		values map[string]float64
	}{{"", r.Figures}, {"ratio ", r.Ratios}} {
		keys := make([]string, 0, len(part.values))
		for k := range part.values {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			fmt.Fprintf(w, "  %s%s\t%.2f\n", part.what, k, part.values[k])
		}
	}
	w.Flush()
}

func write(r result) error {
	if err := os.MkdirAll("bench-results", 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("bench-results", r.Workload+".json"), append(raw, '\n'), 0o644)
}

func commit() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// median of an odd or even number of values; the smaller middle one of an even number.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[(len(s)-1)/2]
}

// quantile of durations in milliseconds, or of anything else, by rank.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[int(q*float64(len(s)-1))]
}
