package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// role is a process of the system with somebody who starts it again when it ends, as a container platform would.
type role struct {
	name    string
	program string
	args    []string
	w       *world
	log     *os.File

	mu       sync.Mutex
	cmd      *exec.Cmd
	stopping bool
	starts   int
	gone     chan struct{} // closed when it has ended for good
}

const (
	stopWait    = 20 * time.Second
	restartWait = 200 * time.Millisecond // as a platform's back-off
	logTail     = 4000
)

func (w *world) start(name string, args ...string) *role {
	w.t.Helper()
	return w.startProgram(name, binary, args...)
}

func (w *world) startProgram(name, program string, args ...string) *role {
	w.t.Helper()
	f, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	r := &role{name: name, program: program, args: args, w: w, log: f, gone: make(chan struct{})}
	w.roles = append(w.roles, r)
	w.t.Cleanup(r.end)
	started := make(chan error)
	go r.keep(started)
	if err := <-started; err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) role(name string) *role {
	w.t.Helper()
	for _, r := range w.roles {
		if r.name == name {
			return r
		}
	}
	w.t.Fatalf("there is no role %s", name)
	return nil
}

func (r *role) spawn() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return os.ErrProcessDone
	}
	cmd := exec.Command(r.program, r.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = r.w.env, r.log, r.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	fmt.Fprintf(r.log, "--- start %d\n", r.starts)
	r.starts++
	r.cmd = cmd
	return cmd.Start()
}

// keep starts the process, again whenever it ends, until end. It stays on its thread, because the kernel ends a child
// when the thread that started it is gone: so no role outlives a test that was killed.
func (r *role) keep(started chan<- error) {
	runtime.LockOSThread()
	defer close(r.gone)
	err := r.spawn()
	started <- err
	if err != nil {
		return
	}
	for {
		r.mu.Lock()
		cmd := r.cmd
		r.mu.Unlock()
		err := cmd.Wait()
		fmt.Fprintf(r.log, "--- ended: %v\n", err)
		time.Sleep(restartWait)
		if r.spawn() != nil {
			return
		}
	}
}

func (r *role) signal(s syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd.Process != nil {
		_ = r.cmd.Process.Signal(s) // it may have ended by itself
	}
}

func (r *role) kill9()  { r.signal(syscall.SIGKILL) }
func (r *role) pause()  { r.signal(syscall.SIGSTOP) }
func (r *role) resume() { r.signal(syscall.SIGCONT) }

// end stops the process for good, and shows the end of its log when the test has failed.
func (r *role) end() {
	r.stop()
	if r.w.t.Failed() {
		if b, err := os.ReadFile(r.log.Name()); err == nil {
			r.w.t.Logf("the end of %s's log (%d starts):\n%s", r.name, r.starts, bytes.TrimSpace(b[max(0, len(b)-logTail):]))
		}
	}
	r.log.Close()
}

func (r *role) stop() {
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	r.resume()
	r.signal(syscall.SIGTERM)
	select {
	case <-r.gone:
	case <-time.After(stopWait):
		r.w.t.Errorf("%s did not stop within %v", r.name, stopWait)
		r.kill9()
		<-r.gone
	}
}
