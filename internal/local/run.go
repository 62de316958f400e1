package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Run is run.json in the data folder: what runs where. The command line finds a running stack by it.
type Run struct {
	Started  time.Time         `json:"started"`
	Owner    identity          `json:"owner"`    // who started it, and, unless detached, ends it
	Detached bool              `json:"detached"` // runs on without its owner
	Kafka    []string          `json:"kafka,omitempty"`
	Postgres string            `json:"postgres,omitempty"` // URL, with its password
	Parts    []Part            `json:"parts"`
	Also     map[string]string `json:"also,omitempty"` // addresses of what the owner itself serves: "api"
	children []identity
}

// ErrNotRunning means that nothing runs from the data folder.
var ErrNotRunning = errors.New("no stack is running")

// RunningError means that a stack runs from this data folder already.
type RunningError struct {
	Dir string
	Run Run // empty while that one is still starting
}

func (e *RunningError) Error() string {
	if e.Run.Owner.PID == 0 {
		return "a stack is starting from " + e.Dir + " already"
	}
	return fmt.Sprintf("a stack runs from %s already, started by process %d: use it, or end it with millrace stack down --data %s", e.Dir, e.Run.Owner.PID, e.Dir)
}

const (
	runFile      = "run.json"
	lockFile     = "lock"
	recordFolder = "processes" // who each child is, written when it is born
)

// FindRun reads what runs from the data folder dir ("" is the default one), or returns ErrNotRunning.
func FindRun(dir string) (Run, error) {
	dir, err := dataFolder(dir)
	if err != nil {
		return Run{}, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, runFile))
	if errors.Is(err, os.ErrNotExist) {
		return Run{}, fmt.Errorf("%w from %s", ErrNotRunning, dir)
	}
	if err != nil {
		return Run{}, err
	}
	var run Run
	if err := json.Unmarshal(raw, &run); err != nil {
		return Run{}, fmt.Errorf("%s: %w", filepath.Join(dir, runFile), err)
	}
	if run.children, err = readRecords(dir); err != nil {
		return Run{}, err
	}
	if !run.alive() {
		return Run{}, fmt.Errorf("%w from %s (one that crashed has left %d processes, which the next start ends)", ErrNotRunning, dir, countAlive(run.children))
	}
	return run, nil
}

func (r Run) alive() bool {
	if r.Detached {
		return countAlive(r.children) > 0
	}
	return r.Owner.alive()
}

// Alive reports whether a process of the run, named by its ID in a Part, still runs.
func (r Run) Alive(pid int) bool {
	for _, id := range r.children {
		if id.PID == pid {
			return id.alive()
		}
	}
	return false
}

func countAlive(all []identity) (n int) {
	for _, id := range all {
		if id.alive() {
			n++
		}
	}
	return n
}

// Down ends the stack that runs from the data folder dir: by asking its owner to, or, when it was detached, itself.
func Down(ctx context.Context, dir string) error {
	dir, err := dataFolder(dir)
	if err != nil {
		return err
	}
	run, err := FindRun(dir)
	if err != nil {
		return err
	}
	if !run.Detached {
		return run.Owner.end(ctx, syscall.SIGTERM, downWait)
	}
	lock, err := lockData(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := endRecorded(ctx, dir); err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, runFile))
}

// Erase removes the data of the parts in dir, from which nothing may run; orphans are ended first. Other files in the
// folder stay.
func Erase(ctx context.Context, dir string) error {
	dir, err := dataFolder(dir)
	if err != nil {
		return err
	}
	if !exists(dir) {
		return nil
	}
	lock, err := lockData(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if run, err := FindRun(dir); err == nil && run.Detached {
		return &RunningError{Dir: dir, Run: run}
	}
	if err := endRecorded(ctx, dir); err != nil {
		return err
	}
	var errs []error
	for _, name := range []string{"kafka", "kfake", "postgres", recordFolder, runFile} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// downWait is for an owner that ends its children and its own work first.
const downWait = time.Minute

func dataFolder(dir string) (string, error) {
	if dir == "" {
		return DataDir()
	}
	return filepath.Abs(dir)
}

// lockData makes sure that one process at a time starts or ends what runs from dir.
func lockData(dir string) (*os.File, error) {
	lock, err := tryLock(filepath.Join(dir, lockFile))
	if errors.Is(err, errLocked) {
		run, _ := FindRun(dir) // it may still be starting
		return nil, &RunningError{Dir: dir, Run: run}
	}
	return lock, err
}

// record is how a child that is born is remembered, until it has been ended.
type record struct {
	identity
	Stop  syscall.Signal `json:"stop"` // asks it for a clean end
	Grace time.Duration  `json:"grace"`
}

func readRecords(dir string) ([]identity, error) {
	paths, err := filepath.Glob(filepath.Join(dir, recordFolder, "*.json"))
	if err != nil {
		return nil, err
	}
	var ids []identity
	for _, path := range paths {
		r, err := readRecord(path)
		if err != nil {
			return nil, err
		}
		ids = append(ids, r.identity)
	}
	return ids, nil
}

func readRecord(path string) (record, error) {
	var r record
	raw, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// endRecorded ends what an earlier owner left running: the orphans of one that crashed, or a detached stack.
func endRecorded(ctx context.Context, dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, recordFolder, "*.json"))
	if err != nil {
		return err
	}
	ended := make(chan error, len(paths))
	for _, path := range paths {
		go func() { ended <- endRecord(ctx, path) }()
	}
	var errs []error
	for range paths {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

func endRecord(ctx context.Context, path string) error {
	r, err := readRecord(path)
	if err != nil {
		return err
	}
	children := childrenOf(r.PID) // looked at before the parent has gone
	if !r.alive() {
		children = nil // that ID is somebody else's by now
	}
	if err := r.end(ctx, r.Stop, r.Grace); err != nil {
		return err
	}
	for _, child := range children {
		if err := child.end(ctx, syscall.SIGKILL, killWait); err != nil {
			return err
		}
	}
	return os.Remove(path)
}
