package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// A record is one line of the journal: everything one step changed, together, so that a line is all of it or none.
type record struct {
	Intent *intent   `json:"intent,omitempty"`
	Refund *refund   `json:"refund,omitempty"`
	Key    *keptLine `json:"key,omitempty"`
}

// A keptLine is an idempotency key and what its answer was, as far as the rest of the record does not say it.
type keptLine struct {
	Key     string   `json:"key"`
	Print   []byte   `json:"print"`
	At      int64    `json:"at"` // unix milliseconds
	Request string   `json:"request"`
	Intent  string   `json:"intent,omitempty"` // the answer is about this intent, as the journal has it up to here
	Refusal *refusal `json:"refusal,omitempty"`
}

// A journal is an append-only file of records. Records that arrive while one fsync runs share the next one.
// A nil journal remembers nothing and is always done: the gateway in memory.
type journal struct {
	file *os.File

	mu     sync.Mutex
	next   *batch // collects until the writer takes it
	broken error  // after a failed write the file's end is unknown, so nothing more is accepted
	wake   chan struct{}
	ended  chan struct{}
}

type batch struct {
	lines bytes.Buffer
	done  chan struct{}
	err   error
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

var errClosed = errors.New("gateway: journal is closed")

// openJournal locks the folder, hands every whole record to replay and cuts off the half line a crash may have left.
func openJournal(folder string, replay func(record) error) (*journal, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("gateway: data folder: %w", err)
	}
	path := filepath.Join(folder, "gateway.journal")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("gateway: journal: %w", err)
	}
	if err := prepare(file, replay); err != nil {
		file.Close()
		return nil, fmt.Errorf("gateway: journal %s: %w", path, err)
	}
	if err := syncFolder(folder); err != nil {
		file.Close()
		return nil, fmt.Errorf("gateway: data folder: %w", err)
	}
	j := &journal{file: file, next: newBatch(), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go j.write()
	return j, nil
}

func prepare(file *os.File, replay func(record) error) error {
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another gateway uses it: %w", err)
	}
	whole, err := readJournal(file, replay)
	if err != nil {
		return err
	}
	if err := file.Truncate(whole); err != nil {
		return err
	}
	_, err = file.Seek(whole, io.SeekStart)
	return err
}

// readJournal returns where the last whole line ends. A last line without its newline was never answered and is
// dropped; anything else that cannot be read is damage, and charges may not be guessed.
func readJournal(file io.Reader, replay func(record) error) (whole int64, err error) {
	in := bufio.NewReaderSize(file, 1<<20)
	for number := 1; ; number++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return whole, nil
		}
		if err != nil {
			return whole, err
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return whole, fmt.Errorf("line %d: %w", number, err)
		}
		if err := replay(r); err != nil {
			return whole, fmt.Errorf("line %d: %w", number, err)
		}
		whole += int64(len(line))
	}
}

// syncFolder makes the file's name as durable as its content.
func syncFolder(folder string) error {
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// commit returns once the record is on disk.
func (j *journal) commit(r record) error {
	if j == nil {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("gateway: journal: %w", err)
	}
	j.mu.Lock()
	if j.broken != nil {
		j.mu.Unlock()
		return j.broken
	}
	mine := j.next
	mine.lines.Write(line)
	mine.lines.WriteByte('\n')
	select {
	case j.wake <- struct{}{}:
	default: // the writer has been woken already and will take this batch
	}
	j.mu.Unlock()
	<-mine.done
	return mine.err
}

func (j *journal) write() {
	defer close(j.ended)
	for range j.wake {
		j.mu.Lock()
		taken := j.next
		j.next = newBatch()
		j.mu.Unlock()
		if taken.lines.Len() > 0 {
			taken.err = j.toDisk(taken.lines.Bytes())
		}
		close(taken.done)
	}
}

func (j *journal) toDisk(lines []byte) error {
	_, err := j.file.Write(lines)
	if err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = fmt.Errorf("gateway: journal: %w", err)
	return j.broken
}

// health is nil while records are accepted.
func (j *journal) health() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// close writes what has been accepted and refuses the rest.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	if errors.Is(j.broken, errClosed) {
		j.mu.Unlock()
		return nil
	}
	j.broken = errClosed
	close(j.wake)
	j.mu.Unlock()
	<-j.ended
	return j.file.Close()
}
