package transact

import (
	"context"
	"fmt"
	"math/rand"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ledger is the work that the tests do: accounts that are paid into and taken from, and never below zero. A command is
// "id|amount" by account, its outcome "id|verdict|balance after". Both outcome and balance depend on all that came
// before, so a command that is lost or decided twice shows.
type ledger struct {
	name       string
	partitions int32
	accounts   int
	opening    int64
}

func (l ledger) in() string    { return l.name + "-in" }
func (l ledger) out() string   { return l.name + "-out" }
func (l ledger) dlq() string   { return l.name + "-dlq" }
func (l ledger) group() string { return l.name }
func (l ledger) table() string { return string(goka.GroupTable(goka.Group(l.name))) }

func newLedger(t testing.TB, partitions int32, accounts int) ledger {
	l := ledger{name: fresh(t), partitions: partitions, accounts: accounts, opening: 200}
	createTopics(t, partitions, l.group(), []string{l.in()}, []string{l.out(), l.dlq()}, l.table())
	return l
}

func (l ledger) graph(decide goka.ProcessCallback) *goka.GroupGraph {
	return goka.DefineGroup(goka.Group(l.group()),
		goka.Input(goka.Stream(l.in()), new(codec.String), decide),
		goka.Output(goka.Stream(l.out()), new(codec.String)),
		goka.Persist(new(codec.Int64)))
}

func (l ledger) decide(ctx goka.Context, msg any) {
	id, amount, _ := strings.Cut(msg.(string), "|")
	n, err := strconv.ParseInt(amount, 10, 64)
	var have int64
	if v := ctx.Value(); v != nil {
		have = v.(int64)
	}
	verdict, have := decideLedger(have, n)
	if verdict != "refused" {
		ctx.SetValue(have)
	}
	ctx.Emit(goka.Stream(l.out()), ctx.Key(), id+"|"+verdict+"|"+strconv.FormatInt(have, 10))
	if err != nil { // after it has written: nothing of that may remain
		panic(err)
	}
}

func decideLedger(have, amount int64) (verdict string, after int64) {
	switch {
	case amount >= 0:
		return "paid in", have + amount
	case have+amount < 0:
		return "refused", have
	}
	return "taken", have + amount
}

func account(n int) string { return fmt.Sprintf("account-%05d", n) }

// poison writes a command that no callback survives.
func (l ledger) poison(t testing.TB, n int) {
	t.Helper()
	cl := client(t)
	defer cl.Close()
	r := &kgo.Record{Topic: l.in(), Key: []byte(account(n % l.accounts)), Value: fmt.Appendf(nil, "%s%d|a lot", poisonID, n)}
	must(t, "poison", func() error { return cl.ProduceSync(context.Background(), r).FirstErr() })
}

const poisonID = "poison"

func isPoison(r *kgo.Record) bool { return strings.HasPrefix(string(r.Value), poisonID) }

// letter is the ledger's dead letter: the record as it was.
func (l ledger) letter(r *kgo.Record, reason error) *kgo.Record {
	return &kgo.Record{Topic: l.dlq(), Key: r.Key, Value: r.Value, Headers: []kgo.RecordHeader{{Key: "reason", Value: []byte(reason.Error())}}}
}

// checkLetters wants one dead letter for each of n poisonous commands.
func (l ledger) checkLetters(t testing.TB, n int) {
	t.Helper()
	got := map[string]int{}
	for _, r := range readAll(t, l.dlq()) {
		got[string(r.Value)]++
	}
	for id, times := range got {
		if times != 1 {
			t.Errorf("%s has %d dead letters", id, times)
		}
	}
	if len(got) != n {
		t.Errorf("%d commands have dead letters, want %d", len(got), n)
	}
}

// load pays in each account's opening, then writes n random commands.
func (l ledger) load(t testing.TB, n int, seed int64) {
	t.Helper()
	cl := client(t, kgo.MaxBufferedRecords(100_000))
	defer cl.Close()
	send := func(key, value string) {
		cl.Produce(context.Background(), &kgo.Record{Topic: l.in(), Key: []byte(key), Value: []byte(value)}, nil)
	}
	for i := range l.accounts {
		send(account(i), fmt.Sprintf("open%d-%d|%d", seed, i, l.opening))
	}
	r := rand.New(rand.NewSource(seed))
	for i := range n {
		send(account(r.Intn(l.accounts)), fmt.Sprintf("c%d-%d|%d", seed, i, r.Intn(7)-4))
	}
	must(t, "load", func() error { return cl.Flush(context.Background()) })
}

// verdicts is what a check found.
type verdicts struct{ commands, outcomes, missing, doubled, wrong, wrongBalances int }

func (v verdicts) exact() bool {
	return v.commands > 0 && v.missing+v.doubled+v.wrong+v.wrongBalances == 0 && v.outcomes == v.commands
}

// check compares the outcome of every command, and every balance in the changelog, with a serial replay of the commands.
// skip are commands that must have no outcome.
func (l ledger) check(t testing.TB, skip func(*kgo.Record) bool) verdicts {
	t.Helper()
	commands := readAll(t, l.in())
	sort.Slice(commands, func(i, j int) bool {
		a, b := commands[i], commands[j]
		return a.Partition < b.Partition || a.Partition == b.Partition && a.Offset < b.Offset
	})
	balances, want := map[string]int64{}, map[string]string{}
	for _, c := range commands {
		if skip != nil && skip(c) {
			continue
		}
		id, amount, _ := strings.Cut(string(c.Value), "|")
		n, _ := strconv.ParseInt(amount, 10, 64)
		verdict, after := decideLedger(balances[string(c.Key)], n)
		balances[string(c.Key)] = after
		want[id] = id + "|" + verdict + "|" + strconv.FormatInt(after, 10)
	}
	got := map[string][]string{}
	outcomes := readAll(t, l.out())
	for _, o := range outcomes {
		id, _, _ := strings.Cut(string(o.Value), "|")
		got[id] = append(got[id], string(o.Value))
	}
	v := verdicts{commands: len(want), outcomes: len(outcomes)}
	for id, w := range want {
		v.count(w, got[id])
	}
	v.wrongBalances = l.wrongBalances(t, balances)
	return v
}

func (v *verdicts) count(want string, got []string) {
	switch {
	case len(got) == 0:
		v.missing++
	case len(got) > 1:
		v.doubled++
	}
	for _, g := range got {
		if g != want {
			v.wrong++
			return
		}
	}
}

func (l ledger) wrongBalances(t testing.TB, want map[string]int64) (wrong int) {
	t.Helper()
	last := map[string]int64{}
	for _, r := range readAll(t, l.table()) {
		last[string(r.Key)], _ = strconv.ParseInt(string(r.Value), 10, 64)
	}
	for k, w := range want {
		if last[k] != w {
			wrong++
		}
	}
	return wrong
}

func (l ledger) admin(t testing.TB) *kadm.Client { return kadm.NewClient(client(t)) }
