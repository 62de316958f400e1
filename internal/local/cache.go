package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// cache is the folder of fetched parts. What has its final name in it is complete and was checked; several processes
// may use one cache at a time.
type cache struct {
	dir string
	log io.Writer
}

func openCache(dir string, log io.Writer) (cache, error) {
	if err := makeFolder(dir); err != nil {
		return cache{}, fmt.Errorf("cache folder: %w", err)
	}
	return cache{dir: dir, log: log}, nil
}

// piece is one folder of the cache and how it comes to be.
type piece struct {
	part   string // for messages: "Apache Kafka 4.2.1"
	name   string // of the folder
	needMB uint64 // disk space that making it takes
	// make fills the empty folder into. The second attempt leaves the package manager's own cache out: it may be
	// that one that is damaged.
	make func(ctx context.Context, into string, attempt int) error
}

// errChecksum means that something fetched is not what was pinned.
var errChecksum = errors.New("checksum mismatch")

// get returns the piece's folder, making it when it is not there. It appears under its name in one step, after
// everything in it was checked; whatever dies before leaves a temporary folder, which the next one removes.
func (c cache) get(ctx context.Context, p piece) (string, error) {
	final := filepath.Join(c.dir, p.name)
	if exists(final) {
		return final, nil
	}
	unlock, err := c.lockPiece(ctx, p)
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(final) {
		return final, nil
	}
	if err := wantDisk(p.part, c.dir, p.needMB); err != nil {
		return "", err
	}
	return final, c.makePiece(ctx, p, final)
}

func (c cache) makePiece(ctx context.Context, p piece, final string) error {
	tmp := filepath.Join(c.dir, "."+p.name+".partial")
	defer os.RemoveAll(tmp)
	err := c.attempt(ctx, p, tmp, final, 0)
	if missing := (*MissingError)(nil); err == nil || errors.As(err, &missing) || ctx.Err() != nil {
		return err // once more would not change that
	}
	fmt.Fprintf(c.log, "%s: %v; once more from the start\n", p.part, firstLine(err))
	if err := c.attempt(ctx, p, tmp, final, 1); err != nil {
		return fmt.Errorf("%s: %w", p.part, err)
	}
	return nil
}

func (c cache) attempt(ctx context.Context, p piece, tmp, final string, attempt int) error {
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := makeFolder(tmp); err != nil {
		return err
	}
	if err := p.make(ctx, tmp, attempt); err != nil {
		return err
	}
	return os.Rename(tmp, final)
}

func (c cache) lockPiece(ctx context.Context, p piece) (unlock func(), err error) {
	path := filepath.Join(c.dir, "."+p.name+".lock")
	lock, err := tryLock(path)
	if errors.Is(err, errLocked) {
		fmt.Fprintf(c.log, "%s: another process is fetching it; waiting\n", p.part)
		lock, err = waitLock(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	return func() { lock.Close() }, nil
}

// errLocked means that another process holds the lock.
var errLocked = errors.New("locked by another process")

// tryLock takes the lock on a file that stays where it is: removing it would let two processes each lock their own.
// The lock goes with the process, however that ends.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

const lockPoll = 50 * time.Millisecond

func waitLock(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		f, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func firstLine(err error) string {
	text := err.Error()
	for i, r := range text {
		if r == '\n' {
			return text[:i]
		}
	}
	return text
}
