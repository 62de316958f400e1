package transact

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// tableConsumer reads tables for goka: read-committed, with headers, and with errors that are told. Offsets come from
// goka, which knows where its store stands; one that the log does not hold is an error, never a reset.
type tableConsumer struct {
	brokers []string
	opts    []kgo.Opt
	report  func(error)
	point   func() // called with each fetch that is handed on
}

func (c *tableConsumer) ConsumePartition(topic string, partition int32, offset int64) (sarama.PartitionConsumer, error) {
	at := kgo.NewOffset().At(offset)
	switch offset {
	case sarama.OffsetOldest:
		at = kgo.NewOffset().AtStart()
	case sarama.OffsetNewest:
		at = kgo.NewOffset().AtEnd()
	}
	opts := append([]kgo.Opt{
		kgo.SeedBrokers(c.brokers...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: at}}),
	}, c.opts...)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("read %s/%d: %w", topic, partition, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &tablePartition{
		cl: cl, ctx: ctx, cancel: cancel, report: c.report, point: c.point,
		messages: make(chan *sarama.ConsumerMessage, batchRecords),
		errors:   make(chan *sarama.ConsumerError, 1),
	}
	go p.read()
	return p, nil
}

func (c *tableConsumer) Topics() ([]string, error)                  { return nil, nil }
func (c *tableConsumer) Partitions(string) ([]int32, error)         { return nil, nil }
func (c *tableConsumer) HighWaterMarks() map[string]map[int32]int64 { return nil }
func (c *tableConsumer) Close() error                               { return nil }
func (c *tableConsumer) Pause(map[string][]int32)                   {}
func (c *tableConsumer) Resume(map[string][]int32)                  {}
func (c *tableConsumer) PauseAll()                                  {}
func (c *tableConsumer) ResumeAll()                                 {}

type tablePartition struct {
	cl       *kgo.Client
	ctx      context.Context
	cancel   context.CancelFunc
	messages chan *sarama.ConsumerMessage
	errors   chan *sarama.ConsumerError
	report   func(error)
	point    func()
}

// read hands on what is fetched, until it is closed or the log refuses.
func (p *tablePartition) read() {
	defer close(p.errors)
	defer close(p.messages)
	defer p.cl.Close()
	for {
		fetches := p.cl.PollFetches(p.ctx)
		if p.ctx.Err() != nil {
			return
		}
		if err := p.refused(fetches); err != nil {
			p.report(err.Err)
			p.errors <- err
			return
		}
		p.point()
		if !p.hand(fetches) {
			return
		}
	}
}

func (p *tablePartition) refused(fetches kgo.Fetches) *sarama.ConsumerError {
	for _, fe := range fetches.Errors() {
		if err := fetchError(fe.Topic, fe.Partition, fe.Err); err != nil {
			return &sarama.ConsumerError{Topic: fe.Topic, Partition: fe.Partition, Err: outOfRangeIsNoCommit(err)}
		}
	}
	return nil
}

// outOfRangeIsNoCommit keeps a table that was compacted under our reading from ending the instance: goka begins again at
// the log's new start. Only the group's own offsets are sacred.
func outOfRangeIsNoCommit(err error) error {
	if errors.Is(err, ErrOffsetOutOfRange) {
		return fmt.Errorf("read table: %v", err)
	}
	return err
}

func (p *tablePartition) hand(fetches kgo.Fetches) bool {
	messages := make([]sarama.ConsumerMessage, fetches.NumRecords())
	i := 0
	for it := fetches.RecordIter(); !it.Done(); i++ {
		fill(&messages[i], it.Next())
		select {
		case p.messages <- &messages[i]:
		case <-p.ctx.Done():
			return false
		}
	}
	return true
}

func fill(m *sarama.ConsumerMessage, r *kgo.Record) {
	m.Topic, m.Partition, m.Offset, m.Timestamp = r.Topic, r.Partition, r.Offset, r.Timestamp
	m.Key, m.Value = r.Key, bytes.Clone(r.Value) // a table may keep it, and must not keep the whole batch with it
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, &sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
	}
}

func (p *tablePartition) AsyncClose()                              { p.cancel() }
func (p *tablePartition) Close() error                             { p.cancel(); return nil }
func (p *tablePartition) Messages() <-chan *sarama.ConsumerMessage { return p.messages }
func (p *tablePartition) Errors() <-chan *sarama.ConsumerError     { return p.errors }
func (p *tablePartition) HighWaterMarkOffset() int64               { return 0 }
func (p *tablePartition) Pause()                                   {}
func (p *tablePartition) Resume()                                  {}
func (p *tablePartition) IsPaused() bool                           { return false }
