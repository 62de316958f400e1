package local

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Parts are fetched by the ordinary client of their registry, so that a mirror or a proxy that its user has set up
// is used. What arrives is compared with a pinned SHA-256, whatever that client has checked itself.

// runFetch runs a package manager and says every few seconds that it still does. Its own output is shown only when
// it fails.
func runFetch(ctx context.Context, log io.Writer, what string, cmd *exec.Cmd) error {
	fmt.Fprintf(log, "%s ...\n", what)
	begin := time.Now()
	stop := every(5*time.Second, func() {
		fmt.Fprintf(log, "%s ... %v\n", what, time.Since(begin).Round(time.Second))
	})
	defer stop()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// every calls f now and then until stop is called.
func every(d time.Duration, f func()) (stop func()) {
	tick, quit, ended := time.NewTicker(d), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				f()
			}
		}
	}()
	return func() { close(quit); <-ended }
}

func sha256File(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func checkFile(path, want string) error {
	got, err := sha256File(path)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: %s has SHA-256 %s, pinned is %s", errChecksum, filepath.Base(path), got, want)
	}
	return nil
}

// checkFolder holds a folder to a list as sha256sum writes it: each file of the list, and no other.
func checkFolder(dir, list string) error {
	want := make(map[string]string)
	for lines := bufio.NewScanner(strings.NewReader(list)); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			return fmt.Errorf("checksum list: %q is not a line of sha256sum", lines.Text())
		}
		want[name] = sum
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		sum, ok := want[e.Name()]
		if !ok {
			return fmt.Errorf("%w: %s is not among the pinned files", errChecksum, e.Name())
		}
		if err := checkFile(filepath.Join(dir, e.Name()), sum); err != nil {
			return err
		}
		delete(want, e.Name())
	}
	for name := range want {
		return fmt.Errorf("%w: %s and %d others did not arrive", errChecksum, name, len(want)-1)
	}
	return nil
}
