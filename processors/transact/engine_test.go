package transact

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/local/localtest"
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
	ownBrokers.Store(t.Name(), localtest.Forgetful(t))
	l := newLedger(t, 1, 5)
	l.load(t, 20, 1)
	adm := l.admin(t)
	inst, stop := run(t, Config{}, l)
	within(t, 30*time.Second, "the partition is read", func() bool { return inst.Ready() && lag(t, adm, l.group(), l.in()) == 0 })
	must(t, "stop", stop)
}

// Handing out has patience, too: when more is handed out than callbacks get done while a transaction may last, they leave the
// rest to the next one, and a stop does not wait for them.
func TestFullQueueEndsTheTransaction(t *testing.T) {
	e := &engine{cfg: Config{CommitInterval: 10 * time.Millisecond}.withDefaults(), began: time.Now(), late: make(chan struct{})}
	s := &session{engine: e, left: make(chan struct{})}
	queue := make(chan int, 1)
	must(t, "room", func() error { return push(s, queue, 1) })
	if e.over.Load() {
		t.Fatal("over while there is room")
	}
	go func() {
		for end := time.Now().Add(5 * time.Second); !e.over.Load() && time.Now().Before(end); time.Sleep(time.Millisecond) {
		}
		<-queue
	}()
	must(t, "no room", func() error { return push(s, queue, 2) })
	if !e.over.Load() {
		t.Fatal("callbacks are not told to leave the rest")
	}
	close(e.late)
	wantError(t, push(s, queue, 3), errLate)
}
