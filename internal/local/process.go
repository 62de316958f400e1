package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// command is all that is needed to start a server process, now and again after it was killed.
type command struct {
	name   string // "kafka-1"; also the name of its record
	path   string
	args   []string
	env    []string
	dir    string // working directory
	log    string // file that stdout and stderr are added to
	record string // file that says which process this is, so that a later start finds an orphan

	user     *syscall.Credential // nil: as we are
	detached bool                // outlives us
	stopWith syscall.Signal      // asks for a clean end
	dieWith  syscall.Signal      // sent by the kernel when we crash
	grace    time.Duration       // a clean end may take that long, then the process is killed

	ready     func(context.Context) error // one attempt to get an answer
	readyWait time.Duration               // all attempts together
}

// Process is one server process of a part. It can be hurt, so that tests can see what its clients do then.
type Process struct {
	command
	mu  sync.Mutex
	now *running // the latest run
}

// running is one run of a process, from fork to exit.
type running struct {
	id   identity
	done chan struct{} // closed when the process has been reaped
	err  error         // set before done is closed
}

// Name is the name of the process in logs and in run.json: "kafka-1", "postgres".
func (p *Process) Name() string { return p.name }

// PID is the process ID of the latest run.
func (p *Process) PID() int { return p.latest().id.PID }

// Alive reports whether the process runs (a paused one does).
func (p *Process) Alive() bool {
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// Done is closed when the latest run has ended, for whatever reason.
func (p *Process) Done() <-chan struct{} { return p.latest().done }

func (p *Process) latest() *running {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		ended := make(chan struct{})
		close(ended)
		p.now = &running{done: ended, err: errors.New("was never started")}
	}
	return p.now
}

// Start starts the process, again if it was killed or stopped, with the same ports and data, and returns when it
// answers its clients.
func (p *Process) Start(ctx context.Context) error {
	if p.Alive() {
		return fmt.Errorf("%s: already runs as process %d", p.name, p.PID())
	}
	run, err := p.spawn()
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	if err := p.awaitReady(ctx, run, p.ready); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", p.name, err), p.Kill9())
	}
	return nil
}

// Kill9 ends the process, and all its children, with SIGKILL, as a crash of the machine would, and returns when they
// are gone.
func (p *Process) Kill9() error {
	run := p.latest()
	children := childrenOf(run.id.PID)
	if err := run.id.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-run.done
	for _, child := range children { // they would notice, but after the next start
		if err := child.end(context.Background(), syscall.SIGKILL, killWait); err != nil {
			return err
		}
	}
	return nil
}

// Pause stops the process without ending it (SIGSTOP), as a long garbage collection or a suspended machine would:
// its connections stay open and nobody answers.
func (p *Process) Pause() error { return p.signalAll(syscall.SIGSTOP) }

// Resume lets a paused process go on (SIGCONT).
func (p *Process) Resume() error { return p.signalAll(syscall.SIGCONT) }

func (p *Process) signalAll(sig syscall.Signal) error {
	id := p.latest().id
	errs := []error{id.signal(sig)}
	for _, child := range childrenOf(id.PID) {
		errs = append(errs, child.signal(sig))
	}
	return errors.Join(errs...)
}

// Stop ends the process cleanly; one that takes too long, or until ctx ends, is killed.
func (p *Process) Stop(ctx context.Context) error {
	run := p.latest()
	if !p.Alive() {
		return nil
	}
	if err := run.id.signal(p.stopWith); err != nil {
		return err
	}
	if err := p.Resume(); err != nil { // a paused one does not hear
		return err
	}
	patient, cancel := context.WithTimeout(ctx, p.grace)
	defer cancel()
	select {
	case <-run.done:
		return nil
	case <-patient.Done():
		return p.Kill9()
	}
}

// spawn forks and writes down who the child is. The child's end is waited for on the very thread that started it:
// the kernel sends the parent-death signal when that thread ends, and a locked thread ends only with its goroutine.
func (p *Process) spawn() (*running, error) {
	run := &running{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd, err := p.startCommand()
		if err != nil {
			started <- err
			return
		}
		run.id, err = identify(cmd.Process.Pid)
		if err == nil {
			err = writeJSON(p.record, record{identity: run.id, Stop: p.stopWith, Grace: p.grace})
		}
		if run.id.PID == 0 {
			cmd.Process.Kill() // nobody could find it again
		}
		started <- err
		run.err = cmd.Wait()
		close(run.done)
	}()
	err := <-started
	if run.id.PID == 0 {
		return nil, err
	}
	p.mu.Lock()
	p.now = run
	p.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, p.Kill9())
	}
	return run, nil
}

func (p *Process) startCommand() (*exec.Cmd, error) {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	cmd.Stdout, cmd.Stderr = log, log // a file, not a pipe: a detached child must be able to write when we are gone
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	if p.detached {
		cmd.SysProcAttr.Setsid = true
	} else {
		cmd.SysProcAttr.Setpgid = true // Ctrl-C in the terminal is ours to handle
		dieWithParent(cmd.SysProcAttr, p.dieWith)
	}
	return cmd, cmd.Start()
}

const readyPoll = 20 * time.Millisecond

// awaitReady returns when the process answers, ends, or takes too long; in the last two cases with the end of its log.
func (p *Process) awaitReady(ctx context.Context, run *running, ready func(context.Context) error) error {
	waiting, cancel := context.WithTimeout(ctx, p.readyWait)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := ready(waiting)
		if err == nil {
			return nil
		}
		select {
		case <-run.done:
			return fmt.Errorf("ended before it was ready: %w\n%s", run.err, logTail(p.log))
		case <-waiting.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("not ready after %v: %w\n%s", p.readyWait, err, logTail(p.log))
		case <-tick.C:
		}
	}
}

const logTailBytes = 2000

// logTail is the end of a log, indented, for an error message.
func logTail(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	if len(raw) > logTailBytes {
		raw = raw[len(raw)-logTailBytes:]
		raw = raw[bytes.IndexByte(raw, '\n')+1:]
	}
	return "  " + strings.ReplaceAll(strings.TrimSpace(string(raw)), "\n", "\n  ") + "\n  (" + path + ")"
}

// writeJSON replaces path in one step, readable by its owner only: run.json holds a password.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".json-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(append(raw, '\n')); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
