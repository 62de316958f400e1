package topics

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// offsetsRetention is the broker's setting of how long the offsets of a group that is not running are kept.
const offsetsRetention = "offsets.retention.minutes"

// Cluster is what differs between one broker on a laptop and a real cluster. Zero fields mean 1.
type Cluster struct {
	ReplicationFactor int16 // at least this many replicas of every partition; 3 in production
	MinInSync         int   // an acknowledged record is on at least this many of them; 2 in production
}

func (c Cluster) replicas() int16 { return max(c.ReplicationFactor, 1) }
func (c Cluster) inSync() int     { return max(c.MinInSync, 1) }

// Plan is how a cluster differs from the table.
type Plan struct {
	Create  []Topic         // topics that are missing; Apply makes them
	Offsets []MissingOffset // groups that have no offset; Apply commits their first
	Drift   []Difference    // what only a person can put right
}

// MissingOffset is partitions of a topic for which a group has no committed offset.
type MissingOffset struct {
	Group      string
	Topic      string
	Partitions []int32
}

// Difference is one sentence about one topic, group or broker.
type Difference struct {
	Subject string
	What    string
}

func (d Difference) String() string { return d.Subject + ": " + d.What }

// Empty says that the cluster is as the table says.
func (p Plan) Empty() bool { return len(p.Create)+len(p.Offsets)+len(p.Drift) == 0 }

// Sentences is the plan for people, one difference each.
func (p Plan) Sentences() []string {
	var s []string
	for _, t := range p.Create {
		s = append(s, fmt.Sprintf("%s: does not exist; `millrace topics apply` creates it with %d partitions", t.Name, t.Partitions))
	}
	for _, m := range p.Offsets {
		s = append(s, fmt.Sprintf("group %s: has no offset for %s%v; `millrace topics apply` commits the first", m.Group, m.Topic, m.Partitions))
	}
	for _, d := range p.Drift {
		s = append(s, d.String())
	}
	return s
}

// snapshot is what was seen of a cluster.
type snapshot struct {
	topics  map[string]seenTopic
	offsets map[string]kadm.OffsetResponses // by group
	expiry  map[string]string               // offsets.retention.minutes by broker
}

type seenTopic struct {
	partitions kadm.PartitionDetails
	settings   map[string]string
	starts     map[int32]kadm.ListedOffset // where the log begins
}

// compare decides what Apply has to do, and what it must not touch.
func compare(t *Table, c Cluster, seen snapshot) Plan {
	var p Plan
	for _, want := range t.All() {
		have, ok := seen.topics[want.Name]
		if !ok {
			p.Create = append(p.Create, want)
		} else {
			p.Drift = append(p.Drift, want.drift(c, have)...)
		}
		for _, reader := range want.Readers {
			group := t.Group(reader)
			missing, lost := missingOffsets(want, group, have, seen.offsets[group])
			p.Offsets = append(p.Offsets, missing...)
			p.Drift = append(p.Drift, lost...)
		}
	}
	p.Drift = append(p.Drift, expiring(seen.expiry)...)
	return p
}

// drift is how a topic that exists differs from its row.
func (t Topic) drift(c Cluster, have seenTopic) []Difference {
	var d []Difference
	say := func(format string, args ...any) { d = append(d, Difference{t.Name, fmt.Sprintf(format, args...)}) }
	if n := len(have.partitions); n != int(t.Partitions) {
		say("has %d partitions, the table says %d", n, t.Partitions)
	}
	for _, p := range have.partitions.Sorted() {
		if len(p.Replicas) < int(c.replicas()) {
			say("partition %d has %d replicas, at least %d are wanted", p.Partition, len(p.Replicas), c.replicas())
		}
	}
	if n, err := strconv.Atoi(have.settings[minInSync]); err == nil && n < c.inSync() {
		say("%s is %d, at least %d is wanted", minInSync, n, c.inSync())
	}
	promised := t.promised()
	for _, key := range slices.Sorted(maps.Keys(promised)) {
		if v, told := have.settings[key]; told && v != promised[key] {
			say("%s is %s, the table says %s", key, v, promised[key])
		}
	}
	return d
}

// missingOffsets are the partitions for which the group has no offset. 0 is the first only where the log still begins
// there; elsewhere nobody can know how far the group had read, so that is for a person to say.
func missingOffsets(t Topic, group string, have seenTopic, committed kadm.OffsetResponses) ([]MissingOffset, []Difference) {
	missing, lost := MissingOffset{Group: group, Topic: t.Name}, []Difference(nil)
	for p := range t.Partitions {
		if at, ok := committed.Lookup(t.Name, p); ok && at.Err == nil && at.At >= 0 {
			continue
		}
		if start := have.starts[p]; start.Err == nil && start.Offset > 0 {
			lost = append(lost, Difference{"group " + group, fmt.Sprintf(
				"has no offset for %s[%d], and that log begins at %d: commit by hand the one it has read up to", t.Name, p, start.Offset)})
			continue
		}
		missing.Partitions = append(missing.Partitions, p)
	}
	if len(missing.Partitions) == 0 {
		return nil, lost
	}
	return []MissingOffset{missing}, lost
}

// expiring names the brokers that forget the offsets of a group that is away for long.
func expiring(minutes map[string]string) []Difference {
	var d []Difference
	for _, broker := range slices.Sorted(maps.Keys(minutes)) {
		if v := minutes[broker]; v != strconv.Itoa(math.MaxInt32) {
			d = append(d, Difference{"broker " + broker,
				fmt.Sprintf("%s is %s: a group that is away for longer would lose its place; set it to %d", offsetsRetention, v, math.MaxInt32)})
		}
	}
	return d
}

const minInSync = "min.insync.replicas"

// promised are the settings on which others rely; a topic that differs is drift.
func (t Topic) promised() map[string]string {
	s := map[string]string{
		"message.timestamp.type": "LogAppendTime", // timers and place times are counted from it
		"cleanup.policy":         "delete",
		"retention.ms":           milliseconds(t.Retention),
		"retention.bytes":        "-1",
		"max.message.bytes":      strconv.Itoa(t.MaxBytes),
		// A leader that was not in sync would cut off what was acknowledged.
		"unclean.leader.election.enable": "false",
	}
	if t.Compacted {
		s["cleanup.policy"] = "compact"
		// A copy of the table that was away for less still sees every deletion.
		s["delete.retention.ms"] = milliseconds(7 * day)
	}
	return s
}

// settings are what a new topic is created with: the promises, and for tables how eagerly they are compacted, which
// an operator may tune.
func (t Topic) settings(c Cluster) map[string]string {
	s := t.promised()
	s[minInSync] = strconv.Itoa(c.inSync())
	if t.Compacted {
		s["segment.bytes"] = strconv.Itoa(64 << 20)
		s["segment.ms"] = milliseconds(6 * time.Hour)
		s["min.cleanable.dirty.ratio"] = "0.2"
	}
	return s
}

func sameSettings(a, b Topic) bool {
	return a.Partitions == b.Partitions && maps.Equal(a.settings(Cluster{}), b.settings(Cluster{}))
}

func milliseconds(d time.Duration) string {
	if d == Forever {
		return "-1"
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}

func (t *Table) names() []string {
	var names []string
	for _, topic := range t.All() {
		names = append(names, topic.Name)
	}
	return names
}

// groups are the full names of all groups that read a topic of the table.
func (t *Table) groups() []string {
	seen := map[string]bool{}
	for _, topic := range t.All() {
		for _, r := range topic.Readers {
			seen[t.Group(r)] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Find is the topic that a person means: by its full name, or without the prefix, or without the version.
func (t *Table) Find(name string) (Topic, bool) {
	for _, topic := range t.All() {
		short := strings.TrimPrefix(topic.Name, t.Prefix)
		if name == topic.Name || name == short || name == strings.TrimSuffix(short, ".v1") {
			return topic, true
		}
	}
	return Topic{}, false
}
