package transact

import (
	"context"
	"testing"
	"time"
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
