package workertest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"syscall"
)

// A Child is a worker in a process of its own. There is none but on Linux, which ends it when the test binary dies.
type Child struct {
	Ordinal int
	Says    *bytes.Buffer
	belt    *Belt
	cmd     *exec.Cmd
}

// Child runs one until the test ends.
func (b *Belt) Child(ordinal int) *Child {
	b.T.Helper()
	c := &Child{Ordinal: ordinal, belt: b}
	c.start()
	b.T.Cleanup(c.kill9)
	return c
}

func (c *Child) start() {
	c.belt.T.Helper()
	seat, err := json.Marshal(c.belt.seat(c.Ordinal))
	if err != nil {
		c.belt.T.Fatal(err)
	}
	c.Says = &bytes.Buffer{}
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), envSeat+"="+string(seat))
	c.cmd.Stderr = c.Says
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.belt.T.Fatal(err)
	}
}

func (c *Child) kill9() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// Crash kills the process with signal 9 and starts another in its place.
func (c *Child) Crash() {
	c.belt.T.Helper()
	c.kill9()
	c.start()
}

// Signal sends a signal that it outlives.
func (c *Child) Signal(s syscall.Signal) {
	c.belt.T.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.belt.T.Fatalf("%v: %v\n%s", s, err, c.Says)
	}
}
