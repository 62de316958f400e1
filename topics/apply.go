package topics

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// settleTimeout bounds how long we wait until a broker that has just started, or has just been told of a topic, can
// answer for it.
const settleTimeout = 30 * time.Second

// checkTimeout is how long Check gives the brokers to agree with each other.
const checkTimeout = 2 * time.Second

// NewAdmin connects for Plan, Check and Apply. Its client asks again at once about a topic that was unknown a moment
// ago; with the usual five seconds, whoever creates topics waits for them. The caller closes it.
func NewAdmin(brokers []string) (*kadm.Client, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("topics: %w", err)
	}
	return kadm.NewClient(cl), nil
}

// DifferenceError lists how a cluster differs from the table. No role starts with one.
type DifferenceError struct{ Plan Plan }

func (e DifferenceError) Error() string {
	return "the cluster differs from the table of topics:\n  " + strings.Join(e.Plan.Sentences(), "\n  ")
}

// PlanFor looks at the cluster and says how it differs from the table. It changes nothing.
func PlanFor(ctx context.Context, adm *kadm.Client, t *Table, c Cluster) (Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var seen snapshot
	err := insist(ctx, func() (err error) {
		seen, err = look(ctx, adm, t)
		return err
	})
	if err != nil {
		return Plan{}, fmt.Errorf("topics: look at the cluster: %w", err)
	}
	return compare(t, c, seen), nil
}

// Check returns a DifferenceError unless the cluster is as the table says: what every role asks before it starts.
func Check(ctx context.Context, adm *kadm.Client, t *Table, c Cluster) error {
	return agree(ctx, adm, t, c, checkTimeout)
}

// agree looks until the cluster is as the table says, or the patience ends. Brokers learn of a new topic one after
// another, so one that is asked may miss what another has just made; drift does not go away by waiting.
func agree(ctx context.Context, adm *kadm.Client, t *Table, c Cluster, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		p, err := PlanFor(ctx, adm, t, c)
		switch {
		case err != nil || p.Empty():
			return err
		case len(p.Drift) > 0 || time.Now().After(deadline) || pause(ctx) != nil:
			return DifferenceError{p}
		}
	}
}

// Apply creates the topics that are missing and commits the first offset, 0, for every group and partition that has
// none. An offset that is there is never moved, and a topic that is there is never changed: drift is an error, and
// then nothing is done at all. The plan that it returns is what it did. Several processes may call it at once.
func Apply(ctx context.Context, adm *kadm.Client, t *Table, c Cluster) (Plan, error) {
	plan, err := PlanFor(ctx, adm, t, c)
	switch {
	case err != nil:
		return plan, err
	case len(plan.Drift) > 0:
		return plan, DifferenceError{Plan{Drift: plan.Drift}}
	case plan.Empty():
		return plan, nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := create(ctx, adm, c, plan.Create); err != nil {
		return plan, err
	}
	if err := awaitLeaders(ctx, adm, t); err != nil {
		return plan, err
	}
	// Looked at again, so that what another process committed since is left alone.
	again, err := PlanFor(ctx, adm, t, c)
	if err != nil {
		return plan, err
	}
	plan.Offsets = again.Offsets
	if err := commitFirst(ctx, adm, again.Offsets); err != nil {
		return plan, err
	}
	return plan, agree(ctx, adm, t, c, settleTimeout)
}

// create makes the topics, those with the same settings in one request. One that another process made first is fine.
func create(ctx context.Context, adm *kadm.Client, c Cluster, missing []Topic) error {
	for len(missing) > 0 {
		first, names, rest := missing[0], []string(nil), []Topic(nil)
		for _, t := range missing {
			if sameSettings(t, first) {
				names = append(names, t.Name)
			} else {
				rest = append(rest, t)
			}
		}
		made, err := adm.CreateTopics(ctx, first.Partitions, c.replicas(), pointers(first.settings(c)), names...)
		if err != nil {
			return fmt.Errorf("topics: create %s: %w", strings.Join(names, ", "), err)
		}
		for _, r := range made.Sorted() {
			if r.Err != nil && !errors.Is(r.Err, kerr.TopicAlreadyExists) {
				return fmt.Errorf("topics: create %s: %w %s", r.Topic, r.Err, r.ErrMessage)
			}
		}
		missing = rest
	}
	return nil
}

func pointers(settings map[string]string) map[string]*string {
	p := make(map[string]*string, len(settings))
	for k, v := range settings {
		p[k] = &v
	}
	return p
}

// awaitLeaders returns when every partition of the table has a leader.
func awaitLeaders(ctx context.Context, adm *kadm.Client, t *Table) error {
	for {
		all, err := adm.ListTopics(ctx, t.names()...)
		if err != nil {
			return fmt.Errorf("topics: wait for leaders: %w", err)
		}
		if led(all, t) {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("topics: wait for leaders: %w", err)
		}
	}
}

func led(all kadm.TopicDetails, t *Table) bool {
	for _, topic := range t.All() {
		d := all[topic.Name]
		if d.Err != nil || len(d.Partitions) == 0 {
			return false
		}
		for _, p := range d.Partitions {
			if p.Err != nil || p.Leader < 0 {
				return false
			}
		}
	}
	return true
}

// commitFirst commits offset 0 where it is missing. A coordinator may hear of a new topic a moment after us.
func commitFirst(ctx context.Context, adm *kadm.Client, missing []MissingOffset) error {
	byGroup := map[string]kadm.Offsets{}
	for _, m := range missing {
		if byGroup[m.Group] == nil {
			byGroup[m.Group] = kadm.Offsets{}
		}
		first := byGroup[m.Group]
		for _, p := range m.Partitions {
			first.AddOffset(m.Topic, p, 0, -1)
		}
	}
	for group, offsets := range byGroup {
		err := insist(ctx, func() error { return adm.CommitAllOffsets(ctx, group, offsets) })
		if err != nil {
			return fmt.Errorf("topics: commit the first offsets of group %s (it must not be running): %w", group, err)
		}
	}
	return nil
}

// insist asks again as long as the answer is that it is too early to ask.
func insist(ctx context.Context, ask func() error) error {
	err := ask()
	for kerr.IsRetriable(err) && pause(ctx) == nil {
		err = ask()
	}
	return err
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}

// look reads everything that compare needs to know.
func look(ctx context.Context, adm *kadm.Client, t *Table) (snapshot, error) {
	s := snapshot{topics: map[string]seenTopic{}, offsets: map[string]kadm.OffsetResponses{}, expiry: map[string]string{}}
	meta, err := adm.Metadata(ctx, t.names()...)
	if err != nil {
		return s, err
	}
	for name, d := range meta.Topics {
		if d.Err == nil {
			s.topics[name] = seenTopic{partitions: d.Partitions, settings: map[string]string{}}
		} else if !errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			return s, fmt.Errorf("%s: %w", name, d.Err)
		}
	}
	if err := lookAtSettings(ctx, adm, s); err != nil {
		return s, err
	}
	if err := lookAtOffsets(ctx, adm, t, s); err != nil {
		return s, err
	}
	return s, lookAtExpiry(ctx, adm, meta.Brokers.NodeIDs(), s)
}

func lookAtSettings(ctx context.Context, adm *kadm.Client, s snapshot) error {
	if len(s.topics) == 0 {
		return nil
	}
	names := make([]string, 0, len(s.topics))
	for name := range s.topics {
		names = append(names, name)
	}
	described, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return err
	}
	for _, r := range described {
		if r.Err != nil {
			return fmt.Errorf("describe %s: %w", r.Name, r.Err)
		}
		for _, c := range r.Configs {
			s.topics[r.Name].settings[c.Key] = c.MaybeValue()
		}
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return err
	}
	for name, seen := range s.topics {
		seen.starts = starts[name]
		s.topics[name] = seen
	}
	return nil
}

func lookAtOffsets(ctx context.Context, adm *kadm.Client, t *Table, s snapshot) error {
	for group, r := range adm.FetchManyOffsets(ctx, t.groups()...) {
		if r.Err != nil && !errors.Is(r.Err, kerr.GroupIDNotFound) {
			return fmt.Errorf("offsets of group %s: %w", group, r.Err)
		}
		s.offsets[group] = r.Fetched
	}
	return nil
}

// lookAtExpiry reads how long each broker keeps the offsets of a group that is not running. A cluster that does not
// tell is not asked again.
func lookAtExpiry(ctx context.Context, adm *kadm.Client, brokers []int32, s snapshot) error {
	described, err := adm.DescribeBrokerConfigs(ctx, brokers...)
	if err != nil {
		var denied *kadm.AuthError
		if errors.As(err, &denied) {
			return nil
		}
		return err
	}
	for _, r := range described {
		for _, c := range r.Configs {
			if c.Key == offsetsRetention {
				s.expiry[r.Name] = c.MaybeValue()
			}
		}
	}
	return nil
}
