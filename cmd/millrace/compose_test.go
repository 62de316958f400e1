package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/pflag"
)

// composed is docker-compose.yml as Compose itself reads it.
func composed(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{filepath.Join("..", "..", "docker-compose.yml")})
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestComposeRunsEveryRoleWithCommandsThatExist(t *testing.T) {
	p := composed(t)
	var served []string
	for name, s := range p.Services {
		if s.Build == nil {
			continue
		}
		cmd, rest, err := rootCommand().Find(s.Command)
		if err != nil || cmd == rootCommand() {
			t.Errorf("%s: millrace %v: %v", name, s.Command, err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("%s: millrace %v: %v", name, s.Command, err)
		}
		if cmd.Name() == "serve" {
			served = append(served, cmd.Flags().Args()...)
		}
	}
	slices.Sort(served)
	if want := slices.Sorted(slices.Values(roleNames())); !slices.Equal(served, want) {
		t.Errorf("roles %v are served, there are %v", served, want)
	}
}

func TestComposeSetsOnlyVariablesThatAreRead(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(config).register(flags)
	for name, s := range composed(t).Services {
		for variable := range s.Environment {
			flag, ours := strings.CutPrefix(variable, "MILLRACE_")
			if ours && flags.Lookup(strings.ToLower(strings.ReplaceAll(flag, "_", "-"))) == nil {
				t.Errorf("%s sets %s, which nothing reads", name, variable)
			}
		}
	}
}

// TestComposeRunsKafkaAsTheLocalStackDoes holds the settings that correctness or latency rests on to the same values.
func TestComposeRunsKafkaAsTheLocalStackDoes(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "internal", "local", "kafka.properties.tmpl"))
	if err != nil {
		t.Fatal(err)
	}
	local := string(raw)
	kafka := composed(t).Services["kafka"]
	for _, setting := range []string{"auto.create.topics.enable", "offsets.retention.minutes", "add.partitions.to.txn.retry.backoff.ms", "message.max.bytes"} {
		v := kafka.Environment["KAFKA_"+strings.ToUpper(strings.ReplaceAll(setting, ".", "_"))]
		if v == nil || !strings.Contains(local, setting+"="+*v) {
			t.Errorf("%s is %v, the local stack has another", setting, v)
		}
	}
	if !strings.HasSuffix(kafka.Image, ":4.2.1") || !strings.HasSuffix(composed(t).Services["postgres"].Image, ":18") {
		t.Error("the images are not the versions that the local stack runs")
	}
}
