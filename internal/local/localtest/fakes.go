package localtest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fake is a broker in this process, no real one: for answers that a real one cannot be brought to give.
func fake(t testing.TB) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(500*time.Millisecond),
		kfake.BrokerConfigs(map[string]string{"offsets.retention.minutes": "2147483647"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Refusing is a fake broker that does not take the first records that are written outside of a transaction, and says so.
func Refusing(t testing.TB) (brokers []string) {
	t.Helper()
	c := fake(t)
	refused := false
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.ProduceRequest)
		if refused || req.TransactionID != nil {
			return nil, nil, false
		}
		refused = true
		return notTaken(req, kerr.TopicAuthorizationFailed), nil, true
	})
	return c.ListenAddrs()
}

func notTaken(req *kmsg.ProduceRequest, why *kerr.Error) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range req.Topics {
		at := kmsg.ProduceResponseTopic{Topic: topic.Topic, TopicID: topic.TopicID}
		for _, p := range topic.Partitions {
			answer := kmsg.NewProduceResponseTopicPartition()
			answer.Partition, answer.ErrorCode = p.Partition, why.Code
			at.Partitions = append(at.Partitions, answer)
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

// Losing is a fake broker that holds the first records that are written outside of a transaction, loses the group's
// members meanwhile and, when it is told to let go, wants those records again. Joins counts how often a member joined.
func Losing(t testing.TB) (brokers []string, letGo func(), joins *atomic.Int32) {
	t.Helper()
	c := fake(t)
	held := make(chan struct{})
	letGo = sync.OnceFunc(func() { close(held) })
	t.Cleanup(letGo)
	holds, lost := false, false
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.ProduceRequest)
		if holds || req.TransactionID != nil {
			return nil, nil, false
		}
		holds = true
		c.SleepControl(func() { <-held })
		return notTaken(req, kerr.NotLeaderForPartition), nil, true
	})
	c.ControlKey(int16(kmsg.Heartbeat), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if lost || !holds {
			return nil, nil, false
		}
		lost = true
		resp := r.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	joins = new(atomic.Int32)
	c.ControlKey(int16(kmsg.SyncGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		joins.Add(1) // a member that joins syncs once, but may ask to join twice
		return nil, nil, false
	})
	return c.ListenAddrs(), letGo, joins
}

// Forgetful is a fake broker whose coordinator does not know the topics when a group's first member asks for its offsets,
// for longer than franz-go asks again: franz-go reports the partitions and goes on without them.
func Forgetful(t testing.TB) (brokers []string) {
	t.Helper()
	c := fake(t)
	refusals := 4 // franz-go asks again three times
	c.ControlKey(int16(kmsg.OffsetFetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.OffsetFetchRequest)
		if refusals == 0 || len(req.Groups) == 0 || req.Groups[0].MemberID == nil { // it is no member who asks
			return nil, nil, false
		}
		refusals--
		resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		for _, g := range req.Groups {
			answer := kmsg.OffsetFetchResponseGroup{Group: g.Group}
			for _, topic := range g.Topics {
				at := kmsg.OffsetFetchResponseGroupTopic{Topic: topic.Topic, TopicID: topic.TopicID}
				for _, p := range topic.Partitions {
					at.Partitions = append(at.Partitions, kmsg.OffsetFetchResponseGroupTopicPartition{Partition: p, ErrorCode: kerr.UnknownTopicID.Code})
				}
				answer.Topics = append(answer.Topics, at)
			}
			resp.Groups = append(resp.Groups, answer)
		}
		return resp, nil, true
	})
	return c.ListenAddrs()
}
