package transact

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// topicManager is goka's view of topics. It verifies; it creates only a table's topic, and only if told to.
//
// Goka turns errors into strings, so each is also given to report, from where the instance takes it whole.
type topicManager struct {
	*logReader
	ctx    context.Context
	create *NewTable
	report func(error)
	// check is asked before a table is read back, and answers how far its store has read. Nil: nothing to check.
	check func(topic kadm.TopicDetail, partition int32, high int64) (stored int64, err error)
}

const (
	adminTimeout = 20 * time.Second
	topicWait    = 3 * time.Second
	topicPoll    = 100 * time.Millisecond
)

// newTopicManager is what views use: nothing to report to, nothing to compare with.
func newTopicManager(brokers []string, opts []kgo.Opt) (goka.TopicManager, error) {
	r, err := newLogReader(brokers, defaultRecoveryTimeout, opts)
	if err != nil {
		return nil, err
	}
	return &topicManager{
		logReader: r,
		ctx:       context.Background(),
		report:    func(error) {},
	}, nil
}

func (m *topicManager) Close() error { m.close(); return nil }

func (m *topicManager) Partitions(topic string) ([]int32, error) {
	ctx, cancel := context.WithTimeout(m.ctx, adminTimeout)
	defer cancel()
	d, err := m.topic(ctx, topic)
	if err != nil {
		m.report(err)
		return nil, err
	}
	partitions := d.Partitions.Numbers()
	slices.Sort(partitions)
	return partitions, nil
}

// topic waits a little for one that is not there: brokers learn late of what was created a moment ago.
func (m *topicManager) topic(ctx context.Context, topic string) (kadm.TopicDetail, error) {
	for late := time.Now().Add(topicWait); ; time.Sleep(topicPoll) {
		d, err := m.topicNow(ctx, topic)
		if !errors.Is(err, ErrTopic) || m.create != nil || time.Now().After(late) {
			return d, err
		}
	}
}

func (m *topicManager) topicNow(ctx context.Context, topic string) (kadm.TopicDetail, error) {
	all, err := m.adm.ListTopics(ctx, topic)
	if err != nil {
		return kadm.TopicDetail{}, fmt.Errorf("topic %s: %w", topic, err)
	}
	d := all[topic]
	switch {
	case errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		return d, fmt.Errorf("%w: %s does not exist", ErrTopic, topic)
	case d.Err != nil:
		return d, fmt.Errorf("topic %s: %w", topic, d.Err)
	}
	return d, nil
}

// EnsureTableExists verifies that the table's topic has as many partitions as the inputs, and keeps the latest value of
// each key for ever.
func (m *topicManager) EnsureTableExists(topic string, partitions int) error {
	err := m.ensureTable(topic, partitions)
	if err != nil {
		m.report(err)
	}
	return err
}

func (m *topicManager) ensureTable(topic string, partitions int) error {
	ctx, cancel := context.WithTimeout(m.ctx, adminTimeout)
	defer cancel()
	d, err := m.topic(ctx, topic)
	if errors.Is(err, ErrTopic) && m.create != nil {
		return m.createTable(ctx, topic, partitions)
	}
	if err != nil {
		return err
	}
	if len(d.Partitions) != partitions {
		return fmt.Errorf("%w: %s has %d partitions, the inputs have %d", ErrTopic, topic, len(d.Partitions), partitions)
	}
	policy, err := m.config(ctx, topic, "cleanup.policy")
	if err == nil && policy != "compact" {
		return fmt.Errorf("%w: %s has cleanup.policy=%s, a table needs compact", ErrTopic, topic, policy)
	}
	return err
}

func (m *topicManager) createTable(ctx context.Context, topic string, partitions int) error {
	config := map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
	if m.create.MinInSyncReplicas > 0 {
		config["min.insync.replicas"] = kadm.StringPtr(strconv.Itoa(int(m.create.MinInSyncReplicas)))
	}
	_, err := m.adm.CreateTopic(ctx, int32(partitions), m.create.ReplicationFactor, config, topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create %s: %w", topic, err)
	}
	return nil
}

func (m *topicManager) config(ctx context.Context, topic, name string) (string, error) {
	described, err := m.adm.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return "", fmt.Errorf("describe %s: %w", topic, err)
	}
	c, err := described.On(topic, nil)
	if err == nil {
		err = c.Err
	}
	if err != nil {
		return "", fmt.Errorf("describe %s: %w", topic, err)
	}
	for _, kv := range c.Configs {
		if kv.Key == name {
			return kv.MaybeValue(), nil
		}
	}
	return "", nil
}

// EnsureStreamExists is asked for a loop topic, which guard refuses.
func (m *topicManager) EnsureStreamExists(topic string, _ int) error {
	return fmt.Errorf("%w: stream %s", ErrUnsupported, topic)
}

func (m *topicManager) EnsureTopicExists(topic string, _, _ int, _ map[string]string) error {
	return fmt.Errorf("%w: create topic %s", ErrUnsupported, topic)
}

// GetOffset answers where a reader begins, or where goka may stop reading a table back.
func (m *topicManager) GetOffset(topic string, partition int32, when int64) (int64, error) {
	offset, err := m.offset(topic, partition, when)
	if err != nil {
		m.report(err)
	}
	return offset, err
}

func (m *topicManager) offset(topic string, partition int32, when int64) (int64, error) {
	switch when {
	case sarama.OffsetOldest:
		return m.start(m.ctx, topic, partition)
	case sarama.OffsetNewest:
		return m.newest(topic, partition)
	}
	return 0, fmt.Errorf("%w: offset by time", ErrUnsupported)
}

// newest is not before what the store has read. Compaction may have taken that away since, and goka, which would be told
// that its table's topic is empty, would not begin.
func (m *topicManager) newest(topic string, partition int32) (int64, error) {
	end, high, err := m.end(m.ctx, topic, partition)
	if err != nil || m.check == nil {
		return end, err
	}
	ctx, cancel := context.WithTimeout(m.ctx, adminTimeout)
	defer cancel()
	d, err := m.topic(ctx, topic)
	if err != nil {
		return 0, err
	}
	stored, err := m.check(d, partition, high)
	return max(end, stored+1), err
}

// maxRecordBytes is what a topic takes at most, per topic.
func (m *topicManager) maxRecordBytes(ctx context.Context, topics []string) (map[string]int32, error) {
	limits := map[string]int32{}
	for _, t := range topics {
		n, err := m.number(ctx, t, "max.message.bytes")
		if err != nil {
			return nil, err
		}
		limits[t] = int32(min(n, math.MaxInt32))
	}
	return limits, nil
}

func (m *topicManager) number(ctx context.Context, topic, name string) (int64, error) {
	v, err := m.config(ctx, topic, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %s has %s=%q", ErrTopic, topic, name, v)
	}
	return n, nil
}
