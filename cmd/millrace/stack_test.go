package main

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
)

// stack runs `millrace stack ARGS --data DIR` and returns what it printed.
func stack(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := stackCommand()
	cmd.SetArgs(append(args, "--data", dir))
	cmd.SetOut(&out)
	cmd.SetErr(t.Output())
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestStackFromUpToDown(t *testing.T) {
	dir := localtest.Dir(t)
	table, err := stack(t, dir, "up", "--detach", "--kafka-port", "25000", "--postgres-port", "25100")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { local.Down(context.Background(), dir) }) // when the test fails half-way
	if !strings.Contains(table, "Apache Kafka 4.2.1") || !strings.Contains(table, "real") {
		t.Errorf("up printed\n%s", table)
	}
	if now, err := stack(t, dir, "status"); err != nil || now != table {
		t.Errorf("status printed, with %v,\n%s", err, now)
	}
	env, err := stack(t, dir, "env", "--tests")
	if err != nil {
		t.Fatal(err)
	}
	value, err := exec.Command("sh", "-c", env+`echo "$MILLRACE_TEST_KAFKA $MILLRACE_TEST_POSTGRES"`).Output()
	if err != nil || !strings.HasPrefix(string(value), "127.0.0.1:") || !strings.Contains(string(value), " postgres://") {
		t.Errorf("a shell understands %q, %v", value, err)
	}
	if _, err := stack(t, dir, "down"); err != nil {
		t.Fatal(err)
	}
	if _, err := stack(t, dir, "env"); err == nil {
		t.Error("env finds a stack after down")
	}
}

func TestShellQuote(t *testing.T) {
	const odd = `it's $HOME "and" \more`
	out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(odd)).Output()
	if err != nil || string(out) != odd {
		t.Errorf("a shell reads %q, %v", out, err)
	}
}

func TestPartsTableMarksTheDeadAndTheStandIns(t *testing.T) {
	var out bytes.Buffer
	printParts(&out, []local.Part{{Name: "Kafka", Kind: local.StandIn, PIDs: []int{1, 2}, Note: "no Java"}}, func(pid int) bool { return pid == 1 })
	for _, want := range []string{"1, 2 (ended)", "Kafka is a stand-in: no Java."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}
