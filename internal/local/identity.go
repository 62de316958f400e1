package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// identity names one process for ever: a process ID comes back after a while, the same ID with the same start time
// in the same boot does not.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, from /proc/PID/stat
	Boot  string `json:"boot"`
}

// pollEvery is how often a process that is not our child is asked whether it has gone.
const pollEvery = 10 * time.Millisecond

func identify(pid int) (identity, error) {
	stat, err := readStat(pid)
	if err != nil {
		return identity{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, err
	}
	return identity{PID: pid, Start: stat.start, Boot: strings.TrimSpace(string(boot))}, nil
}

// alive is false for a zombie: its parent has not asked yet, but it holds no file and no port any more.
func (id identity) alive() bool {
	now, err := identify(id.PID)
	if err != nil || now != id {
		return false
	}
	stat, err := readStat(id.PID)
	return err == nil && stat.state != 'Z' && stat.state != 'X'
}

// signal takes hold of the process first (a pidfd) and then looks who it is, so that a recycled ID is never hit.
func (id identity) signal(sig os.Signal) error {
	p, err := os.FindProcess(id.PID)
	if err != nil {
		return nil // gone
	}
	defer p.Release()
	if !id.alive() {
		return nil
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to process %d: %w", sig, id.PID, err)
	}
	return nil
}

// end asks with sig, waits for grace, and then kills.
func (id identity) end(ctx context.Context, sig os.Signal, grace time.Duration) error {
	for _, s := range []os.Signal{sig, syscall.SIGCONT} { // a stopped one does not hear
		if err := id.signal(s); err != nil {
			return err
		}
	}
	patient, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if id.gone(patient) == nil {
		return nil
	}
	if err := id.signal(syscall.SIGKILL); err != nil {
		return err
	}
	killed, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
	defer cancel()
	return id.gone(killed)
}

// killWait bounds the wait for a process after SIGKILL; only one stuck in the kernel takes longer.
const killWait = 10 * time.Second

// gone waits until the process has ended.
func (id identity) gone(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for id.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d is still there: %w", id.PID, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

type procStat struct {
	state  byte
	parent int
	start  uint64
}

// readStat reads /proc/PID/stat. The second field is the command in parentheses and may hold anything, so that
// counting starts after the last one.
func readStat(pid int) (procStat, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	line := string(raw)
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:]) // fields[0] is field 3 of proc(5)
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return procStat{state: fields[0][0], parent: parent, start: start}, nil
}

// childrenOf finds the children that pid has now. Postgres puts each of its processes in a session of its own, so
// that a signal to the process group would reach only the first.
func childrenOf(pid int) []identity {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var children []identity
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if stat, err := readStat(child); err != nil || stat.parent != pid {
			continue
		}
		if id, err := identify(child); err == nil {
			children = append(children, id)
		}
	}
	return children
}
