package transact

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// When goka has left the session, nobody makes room: the transaction is over, and the loop does not spin until it is.
func TestNoRoomWhenGokaHasLeft(t *testing.T) {
	e := &engine{session: &session{left: make(chan struct{})}, cfg: Config{}.withDefaults(), open: 1, began: time.Now(), appetite: 1}
	e.outstanding.Store(1)
	if e.due() {
		t.Fatal("due before goka has left")
	}
	close(e.session.left)
	if e.room(context.Background()) || !e.due() {
		t.Fatal("the loop goes on")
	}
	wantError(t, e.drain(), errLeft)
}

// franz-go goes on without a partition of which it reports an error: nothing would ever be read of it again. It joins again
// after an error of the group.
func TestPartitionThatIsLetGo(t *testing.T) {
	e := &engine{cfg: Config{Logger: quiet()}.withDefaults()}
	letGo := kgo.Fetches{{Topics: []kgo.FetchTopic{{Topic: "t", Partitions: []kgo.FetchPartition{{Err: kerr.UnknownTopicID}}}}}}
	if err := e.refused(letGo); !errors.Is(err, kerr.UnknownTopicID) || isTerminal(err) {
		t.Errorf("let go: %v", err)
	}
	for _, healed := range []error{context.DeadlineExceeded, &kgo.ErrGroupSession{Err: kerr.UnknownMemberID}} {
		must(t, "healed", func() error { return e.refused(kgo.NewErrFetch(healed)) })
	}
}

// A coordinator that does not know the topic yet, for longer than franz-go asks again, does not keep the partition from
// being read.
func TestOffsetThatCannotBeFetched(t *testing.T) {
	t.Parallel()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	ownBrokers.Store(t.Name(), fake.ListenAddrs())
	l := newLedger(t, 1, 5)
	l.load(t, 20, 1)
	adm := l.admin(t)
	left := 4 // refusals: franz-go asks again three times
	fake.ControlKey(int16(kmsg.OffsetFetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		req := r.(*kmsg.OffsetFetchRequest)
		if left == 0 || len(req.Groups) == 0 || req.Groups[0].MemberID == nil {
			return nil, nil, false
		}
		left--
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
	inst, stop := run(t, Config{}, l)
	within(t, 30*time.Second, "the partition is read", func() bool { return inst.Ready() && lag(t, adm, l.group(), l.in()) == 0 })
	must(t, "stop", stop)
}
