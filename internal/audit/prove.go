package audit

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// Group is one Goka group and how to decide again what it decided.
type Group struct {
	Name    string
	Inputs  []topics.Topic
	Events  topics.Topic   // one event for every input that changed or answered something, in the order they were decided
	Outputs []topics.Topic // everything it writes, Events and dead letters included
	Table   topics.Topic
	// MayBeSilent are inputs that may rightly have no outcome: a timer that was cancelled, an answer that came twice.
	MayBeSilent []topics.Topic
	// Decide decides one record again: the key's state before and after (nil: none), and what is written.
	Decide func(state []byte, in *kgo.Record) (after []byte, out []*kgo.Record, err error)
}

// Report is what a proof found.
type Report struct {
	Inputs, Outputs, Keys int
	Silent, DeadLetters   int
	Violations            []string // the first of them, in words
	Count                 int      // of all of them
}

const maxViolations = 20

// OK says that nothing was found.
func (r *Report) OK() bool { return r.Count == 0 }

func (r *Report) String() string {
	s := fmt.Sprintf("%d inputs, %d outputs, %d keys, %d silent, %d dead letters, %d violations", r.Inputs, r.Outputs, r.Keys, r.Silent, r.DeadLetters, r.Count)
	for _, v := range r.Violations {
		s += "\n  " + v
	}
	return s
}

func (r *Report) violated(format string, args ...any) {
	r.Count++
	if len(r.Violations) < maxViolations {
		r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
	}
}

// proof is one group's log, taken apart.
type proof struct {
	Group
	Report
	inputs  map[place]*kgo.Record
	written map[place][]*kgo.Record // by cause
	order   map[string][]place      // by key: what was decided, in the order of the events
	tables  map[string]*kgo.Record
}

// Prove decides every input again, key by key, in the order that the events recorded, and compares all that was
// written, bytes and headers, and the table at the end. So an input that was lost, decided twice, decided on a state
// that it had already changed, or half written, is found.
func Prove(l Log, g Group) Report {
	p := &proof{Group: g, inputs: map[place]*kgo.Record{}, written: map[place][]*kgo.Record{}, order: map[string][]place{}, tables: l.Last(g.Table)}
	p.sort(l)
	for _, key := range slices.Sorted(maps.Keys(p.order)) {
		p.Keys++
		p.replay(key)
	}
	p.strays()
	p.accountForTheRest()
	return p.Report
}

func (p *proof) sort(l Log) {
	for _, t := range p.Group.Inputs {
		for _, r := range l.All(t) {
			p.inputs[placeOf(r)] = r
			p.Report.Inputs++
		}
	}
	refused := l.refused()
	for _, t := range p.Group.Outputs {
		for _, r := range l.All(t) {
			if refused[placeOf(r)] {
				continue
			}
			p.Report.Outputs++
			cause, ok := causeOf(r)
			if !ok || p.inputs[cause] == nil {
				p.violated("%s: no input caused it (%v)", placeOf(r), cause)
				continue
			}
			p.written[cause] = append(p.written[cause], r)
			if t.Name == p.Events.Name {
				p.order[string(r.Key)] = append(p.order[string(r.Key)], cause)
			}
		}
	}
}

// replay folds one key's inputs. The written records it accounts for are taken out of p.written.
func (p *proof) replay(key string) {
	var state []byte
	last := map[string]int64{} // by input topic: a key's inputs of one topic are decided in log order
	for _, cause := range p.order[key] {
		if o, ok := last[cause.topic]; ok && cause.offset <= o {
			p.violated("%s %q: %s was decided after offset %d of the same topic", p.Name, key, cause, o)
		}
		last[cause.topic] = cause.offset
		after, want, err := p.Decide(state, p.inputs[cause])
		if err != nil {
			p.violated("%s %q: %s cannot be decided again: %v", p.Name, key, cause, err)
			return
		}
		p.compare(key, cause, want)
		state = after
	}
	p.compareTable(key, state)
}

func (p *proof) compare(key string, cause place, want []*kgo.Record) {
	got := p.written[cause]
	delete(p.written, cause)
	if a, b := describe(got), describe(want); !slices.Equal(a, b) {
		p.violated("%s %q: %s led to\n    %v\n  where deciding it again leads to\n    %v", p.Name, key, cause, a, b)
	}
}

func (p *proof) compareTable(key string, state []byte) {
	var kept []byte
	if r := p.tables[key]; r != nil {
		kept = r.Value
	}
	if !bytes.Equal(kept, state) {
		p.violated("%s %q: the table holds %x, the fold of the log %x", p.Name, key, kept, state)
	}
}

// strays are rows of the table whose key has no event.
func (p *proof) strays() {
	for key, r := range p.tables {
		if _, ok := p.order[key]; !ok && r.Value != nil {
			p.violated("%s %q: the table holds %x, and the log no event", p.Name, key, r.Value)
		}
	}
}

// accountForTheRest looks at inputs that are in no key's order: dead letters, and what may be silent.
func (p *proof) accountForTheRest() {
	decided := map[place]bool{}
	for _, causes := range p.order {
		for _, c := range causes {
			decided[c] = true
		}
	}
	for at, r := range p.inputs {
		if decided[at] {
			continue
		}
		out := p.written[at]
		switch {
		case len(out) == 1 && topics.Header(out[0], topics.HeaderDLQReason) != "":
			p.DeadLetters++
			if !bytes.Equal(out[0].Value, r.Value) || !bytes.Equal(out[0].Key, r.Key) {
				p.violated("%s: its dead letter has other bytes", at)
			}
		case len(out) > 0:
			p.violated("%s has no event, but led to %v", at, describe(out))
		case p.maySilent(at.topic):
			p.Silent++
		default:
			p.violated("%s (key %.60q) has no outcome", at, r.Key)
		}
	}
}

func (p *proof) maySilent(topic string) bool {
	return slices.ContainsFunc(p.MayBeSilent, func(t topics.Topic) bool { return t.Name == topic })
}

// describe is records as comparable text, sorted: Goka keeps no order of headers, and topics have none between them.
func describe(rs []*kgo.Record) []string {
	all := make([]string, len(rs))
	for i, r := range rs {
		headers := make([]string, len(r.Headers))
		for j, h := range r.Headers {
			headers[j] = h.Key + "=" + string(h.Value)
		}
		sort.Strings(headers)
		all[i] = fmt.Sprintf("%s %q %x %v", r.Topic, r.Key, r.Value, headers)
	}
	sort.Strings(all)
	return all
}
