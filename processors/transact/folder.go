package transact

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// folder is the data folder of one instance: locked while it runs, and marked with whose it is.
type folder struct {
	path string
	lock *os.File
}

const (
	lockName     = "lock"
	identityName = "instance"
)

func openFolder(path string) (*folder, error) {
	if path == "" {
		return &folder{}, nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrFolderInUse, path, err)
	}
	return &folder{path: path, lock: lock}, nil
}

// claim marks the folder with the identity, or finds that it bears another one.
func (f *folder) claim(identity string) error {
	if f.path == "" {
		return nil
	}
	name := filepath.Join(f.path, identityName)
	saved, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return writeWhole(name, []byte(identity))
	case err != nil:
		return fmt.Errorf("%w: %w", ErrStore, err)
	case string(saved) != identity:
		return fmt.Errorf("%w: %s is of %q, not of %q", ErrWrongFolder, f.path, saved, identity)
	}
	return nil
}

// writeWhole leaves either no file or all of it.
func writeWhole(name string, data []byte) error {
	part := name + ".part"
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	if err := os.Rename(part, name); err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return nil
}

func (f *folder) close() error {
	if f.lock == nil {
		return nil
	}
	return f.lock.Close() // ends the lock too
}
