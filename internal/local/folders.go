package local

import (
	"fmt"
	"os"
	"path/filepath"
)

// CacheDir is where fetched parts live: MILLRACE_CACHE, or /var/cache/millrace as root (readable by the user that
// Postgres runs as), or the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("MILLRACE_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/millrace", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder: %w (set MILLRACE_CACHE)", err)
	}
	return filepath.Join(dir, "millrace"), nil
}

// DataDir is where the state of a local stack lives unless --data says otherwise: /var/lib/millrace as root, or
// millrace in the user's data folder.
func DataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/millrace", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Abs(filepath.Join(dir, "millrace"))
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("data folder: %w (use --data)", err)
	}
	return filepath.Join(home, ".local", "share", "millrace"), nil
}

// makeFolder makes dir. As root it is opened for passing through, because Postgres runs as another user; what is
// secret inside has its own mode.
func makeFolder(dir string) error {
	if os.Geteuid() != 0 {
		return os.MkdirAll(dir, 0o700)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask, or mktemp -d, made of it
}

// closedAncestor is the first folder on the way to dir that another user cannot pass through, or "".
func closedAncestor(dir string) (string, error) {
	const othersPass = 0o001
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return "", err
		}
		if info.Mode().Perm()&othersPass == 0 {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", nil
		}
	}
}
