package transact

import (
	"context"
	"fmt"
	"time"
)

func (e *engine) isMoved() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session != nil && e.session.generation != e.generation || e.session == nil && len(e.assigned) > 0
}

// follow gives goka a new session when the assignment has changed. franz-go lets that happen only between AllowRebalance
// and the end of a poll, where no transaction is open; but a member that was given up for dead has lost what it had. What
// the last poll brought is read again.
func (e *engine) follow(ctx context.Context) (moved bool, err error) {
	if !e.isMoved() {
		e.inst.ready.Store(e.session != nil || e.joinedIdle())
		return false, nil
	}
	e.inst.ready.Store(false)
	if err := e.leaveSession(); err != nil {
		return true, err
	}
	e.mu.Lock()
	generation, assigned := e.generation, e.assigned
	e.mu.Unlock()
	if len(assigned) == 0 { // others may have been given all meanwhile: nothing comes after that would tell of it
		e.inst.ready.Store(e.joinedIdle())
		return true, nil
	}
	return true, e.enterSession(ctx, generation, assigned)
}

// joinedIdle: a member of the group to whom others leave nothing to do.
func (e *engine) joinedIdle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.joined && len(e.assigned) == 0
}

func (e *engine) leaveSession() error {
	if e.session != nil {
		if err := e.drain(); err != nil {
			return err
		}
	}
	if err := e.giveUp(abortRebalance); err != nil {
		return err
	}
	if e.session == nil {
		return nil
	}
	s := e.session
	e.session = nil
	if err := s.stop(); err != nil {
		return fmt.Errorf("stop session: %w", err)
	}
	return nil
}

func (e *engine) enterSession(ctx context.Context, generation int64, assigned map[string][]int32) error {
	e.inst.meters.state.Set(stateRecovering)
	e.inst.own(assigned)
	began := time.Now()
	s, err := startSession(ctx, e, generation, assigned, e.handler)
	if err != nil {
		return e.inst.cause(fmt.Errorf("start session: %w", err))
	}
	e.session = s
	e.inst.meters.recovery.Observe(time.Since(began).Seconds())
	e.inst.meters.state.Set(stateRunning)
	e.inst.ready.Store(true)
	e.inst.suspects = suspects{}
	e.cfg.failPoint(Recovered)
	return nil
}
