package transact

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lovoo/goka"
)

// plan is what an instance needs of a group's graph: its inputs with their callbacks, and what may be written.
type plan struct {
	group   string
	inputs  map[string]input
	codecs  map[string]goka.Codec // of outputs
	table   string                // topic of the group's table; empty: stateless
	values  goka.Codec            // of the table
	streams []string              // inputs, in order
	written []string              // outputs and the table
	rest    []goka.Edge           // edges that goka gets as they are
}

// input is one input stream.
type input struct {
	topic    string
	codec    goka.Codec
	callback goka.ProcessCallback
}

// planOf reads a graph, and refuses what is not proven inside transactions.
func planOf(graph *goka.GroupGraph) (*plan, error) {
	if err := graph.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := guard(graph); err != nil {
		return nil, err
	}
	p := &plan{group: string(graph.Group()), inputs: map[string]input{}, codecs: map[string]goka.Codec{}}
	for _, e := range graph.InputStreams() {
		cb, err := callbackOf(e)
		if err != nil {
			return nil, err
		}
		p.inputs[e.Topic()] = input{e.Topic(), e.Codec(), cb}
		p.streams = append(p.streams, e.Topic())
	}
	for _, e := range graph.OutputStreams() {
		p.codecs[e.Topic()] = e.Codec()
		p.written = append(p.written, e.Topic())
		p.rest = append(p.rest, e)
	}
	if t := graph.GroupTable(); t != nil {
		p.table, p.values = t.Topic(), t.Codec()
		p.written = append(p.written, t.Topic())
		p.rest = append(p.rest, t)
	}
	return p, nil
}

// guard names the first edge that reads or writes outside of the transaction's bounds.
func guard(graph *goka.GroupGraph) error {
	switch {
	case len(graph.JointTables()) > 0:
		return fmt.Errorf("%w: goka.Join(%s)", ErrUnsupported, graph.JointTables()[0].Topic())
	case len(graph.LookupTables()) > 0:
		return fmt.Errorf("%w: goka.Lookup(%s)", ErrUnsupported, graph.LookupTables()[0].Topic())
	case graph.LoopStream() != nil:
		return fmt.Errorf("%w: goka.Loop(%s)", ErrUnsupported, graph.LoopStream().Topic())
	}
	for _, e := range graph.AllEdges() {
		if strings.HasPrefix(e.String(), "visitor ") && e.Codec() == nil {
			return fmt.Errorf("%w: goka.Visitor(%s)", ErrUnsupported, e.Topic())
		}
	}
	return nil
}

// graph is the graph that goka runs: the same streams and table, with batches of records as messages and run as the
// callback that works each batch off.
func (p *plan) graph(run func(input) goka.ProcessCallback) *goka.GroupGraph {
	edges := slices.Clone(p.rest)
	for _, topic := range p.streams {
		edges = append(edges, goka.Input(goka.Stream(topic), batchCodec{}, run(p.inputs[topic])))
	}
	return goka.DefineGroup(goka.Group(p.group), edges...)
}

// batchCodec takes the place of an input's codec in the graph that goka runs. A message there only says that a batch of
// records waits in its claim.
type batchCodec struct{}

func (batchCodec) Encode(any) ([]byte, error)       { return nil, nil }
func (batchCodec) Decode(value []byte) (any, error) { return value, nil }
