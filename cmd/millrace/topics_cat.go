package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/topics"
)

// cat prints a topic's records, one JSON object a line.
type cat struct {
	*config
	follow    bool
	key       string
	from      string
	limit     int
	partition int32

	table  *topics.Table
	topic  topics.Topic
	out    *bufio.Writer
	copied int
}

func topicsCatCommand(c *config) *cobra.Command {
	k := &cat{config: c}
	cmd := &cobra.Command{
		Use:   "cat TOPIC",
		Short: "Print a topic's records as JSON, one a line, to its end",
		Long: `Print a topic's records as JSON, one a line, up to where the topic ended when it began; with -f, on and on. Only what
is committed is shown. TOPIC is a name as ` + "`millrace topics list`" + ` shows it; the prefix and the ".v1" may be left out. A value
that is not what the topic carries, and a key that is no text, are shown as base64.`,
		Example: `  millrace topics cat order.events -f
  millrace topics cat inventory.events --key CD-CLASSIC --from 10m
  millrace topics cat order.dlq --from 2026-03-01T00:00:00Z --limit 5`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withAdmin(cmd, func(ctx context.Context, adm *kadm.Client) error {
				k.out = bufio.NewWriter(cmd.OutOrStdout())
				return k.run(ctx, adm, args[0])
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&k.follow, "follow", "f", false, "go on with what comes, until Ctrl-C")
	f.StringVar(&k.key, "key", "", "only records of this key (looked for on its own partition)")
	f.StringVar(&k.from, "from", "start", "start, end, an offset, a time (RFC 3339), or a duration: so long ago")
	f.IntVar(&k.limit, "limit", 0, "stop after so many; 0: none")
	f.Int32Var(&k.partition, "partition", -1, "only this partition; -1: all")
	return cmd
}

func (k *cat) run(ctx context.Context, adm *kadm.Client, name string) error {
	var ok bool
	k.table = k.config.table()
	if k.topic, ok = k.table.Find(name); !ok {
		return usageError(fmt.Sprintf("there is no topic %q; `millrace topics list` shows all", name))
	}
	from, ends, err := k.bounds(ctx, adm)
	if err != nil {
		return err
	}
	if err := k.copy(ctx, from, ends); err != nil {
		return err
	}
	return k.out.Flush()
}

// bounds are where to begin on each partition, and where to end. Without -f, only partitions that have anything.
func (k *cat) bounds(ctx context.Context, adm *kadm.Client) (from map[int32]kgo.Offset, ends map[int32]int64, err error) {
	first, err := k.first(ctx, adm)
	if err != nil {
		return nil, nil, err
	}
	end, err := listed(adm.ListCommittedOffsets(ctx, k.topic.Name))
	if err != nil {
		return nil, nil, err
	}
	only := k.partition
	if k.key != "" && only < 0 {
		only = topics.Partition([]byte(k.key), int32(len(end[k.topic.Name])))
	}
	from, ends = map[int32]kgo.Offset{}, map[int32]int64{}
	for p, e := range end[k.topic.Name] {
		at := first(p, e.Offset)
		if (only < 0 || p == only) && (k.follow || at < e.Offset) {
			from[p], ends[p] = kgo.NewOffset().At(at), e.Offset
		}
	}
	return from, ends, nil
}

// first understands --from: where to begin on a partition that ends at `end`.
func (k *cat) first(ctx context.Context, adm *kadm.Client) (func(p int32, end int64) int64, error) {
	starts, err := listed(adm.ListStartOffsets(ctx, k.topic.Name))
	if err != nil {
		return nil, err
	}
	start := func(p int32) int64 { return starts[k.topic.Name][p].Offset }
	switch k.from {
	case "start":
		return func(p int32, _ int64) int64 { return start(p) }, nil
	case "end":
		return func(_ int32, end int64) int64 { return end }, nil
	}
	if n, err := strconv.ParseInt(k.from, 10, 64); err == nil && n >= 0 {
		return func(p int32, end int64) int64 { return min(max(n, start(p)), end) }, nil
	}
	when, err := moment(k.from, time.Now())
	if err != nil {
		return nil, err
	}
	after, err := listed(adm.ListOffsetsAfterMilli(ctx, when.UnixMilli(), k.topic.Name))
	if err != nil {
		return nil, err
	}
	return func(p int32, end int64) int64 { return min(after[k.topic.Name][p].Offset, end) }, nil
}

// moment is a time, or a duration before now.
func moment(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError(fmt.Sprintf("--from: %q is none of start, end, an offset, a time like 2026-03-01T12:00:00Z, a duration like 10m", s))
}

func listed(offsets kadm.ListedOffsets, err error) (kadm.ListedOffsets, error) {
	if err == nil {
		err = offsets.Error()
	}
	return offsets, err
}

// copy reads until the ends, or the limit, or, following, until the context ends.
func (k *cat) copy(ctx context.Context, from map[int32]kgo.Offset, ends map[int32]int64) error {
	if len(from) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(k.Kafka...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{k.topic.Name: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the last offset is often a transaction's marker: only with it the end is seen
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	for k.follow || len(ends) > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil // Ctrl-C
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			if done, err := k.one(it.Next(), ends); done || err != nil {
				return err
			}
		}
		if err := k.out.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// one prints a record, if it is wanted, and says whether that was the last.
func (k *cat) one(r *kgo.Record, ends map[int32]int64) (done bool, err error) {
	end, reading := ends[r.Partition]
	if !k.follow && (!reading || r.Offset >= end) {
		delete(ends, r.Partition)
		return false, nil
	}
	if r.Offset >= end-1 {
		delete(ends, r.Partition)
	}
	if r.Attrs.IsControl() || (k.key != "" && string(r.Key) != k.key) {
		return false, nil
	}
	line, err := json.Marshal(shown(k.table, k.topic, r))
	if err != nil {
		return false, err
	}
	if _, err := k.out.Write(append(line, '\n')); err != nil {
		return false, err
	}
	k.copied++
	return k.copied == k.limit, nil
}

// shownRecord is a record as people read it.
type shownRecord struct {
	Topic       string            `json:"topic"`
	Partition   int32             `json:"partition"`
	Offset      int64             `json:"offset"`
	Time        time.Time         `json:"time"`
	Key         string            `json:"key,omitempty"`
	KeyBase64   []byte            `json:"key_base64,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Value       json.RawMessage   `json:"value,omitempty"`
	ValueBase64 []byte            `json:"value_base64,omitempty"`
	Error       string            `json:"error,omitempty"` // why the value is base64
}

func shown(t *topics.Table, topic topics.Topic, r *kgo.Record) shownRecord {
	s := shownRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC(), Headers: map[string]string{}}
	if utf8.Valid(r.Key) {
		s.Key = string(r.Key)
	} else {
		s.KeyBase64 = r.Key
	}
	for _, h := range r.Headers {
		s.Headers[h.Key] = string(h.Value)
	}
	if original := topics.Header(r, topics.HeaderDLQTopic); topic.Message == nil && original != "" {
		topic, _ = t.Find(original)
	}
	value, err := jsonValue(topic.Message, r.Value)
	if err != nil {
		s.ValueBase64, s.Error = r.Value, err.Error()
		return s
	}
	s.Value = value
	return s
}

var errNoMessage = errors.New("no message is known for this topic")

// jsonValue is the message as JSON; null when there is no value, as in a table whose key was deleted.
func jsonValue(of proto.Message, value []byte) (json.RawMessage, error) {
	switch {
	case value == nil:
		return json.RawMessage("null"), nil
	case of == nil:
		return nil, errNoMessage
	}
	m := of.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(value, m); err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
}
