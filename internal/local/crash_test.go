package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/local"
	"github.com/millrace/millrace/internal/local/localtest"
)

// ownerEnv makes this test binary the owner of a stack, to be killed; its value is the data folder.
const (
	ownerEnv  = "LOCAL_TEST_OWNER"
	detachEnv = "LOCAL_TEST_DETACH"
)

// ownerMain starts a stack, prints its process IDs, and waits to be killed.
func ownerMain() int {
	o := local.Options{Dir: os.Getenv(ownerEnv), Log: os.Stderr, Detach: os.Getenv(detachEnv) != ""}
	o.Kafka.Port, o.Postgres.Port = 24000, 24100
	s, err := local.Start(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.Broker(0).PID(), s.Postgres().PID())
	select {}
}

// startOwner returns the owner's process and the IDs of its children.
func startOwner(t *testing.T, dir string, env ...string) (*exec.Cmd, []int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), ownerEnv+"="+dir), env...)
	cmd.Stderr = os.Stderr
	return cmd, startAndRead(t, cmd)
}

func startAndRead(t *testing.T, cmd *exec.Cmd) (pids []int) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the owner did not start its stack: %v", err)
	}
	for _, field := range strings.Fields(line) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	owner, children := startOwner(t, localtest.Dir(t))
	owner.Process.Kill()
	awaitGone(t, children)
}

func TestOrphansAreEndedByTheNextStart(t *testing.T) {
	dir := localtest.Dir(t)
	owner, orphans := startOwner(t, dir, detachEnv+"=1") // or else the kernel ends them
	owner.Process.Kill()
	owner.Wait()
	if err := os.Remove(filepath.Join(dir, "run.json")); err != nil { // as if it died before it was done
		t.Fatal(err)
	}
	for _, pid := range orphans {
		if !running(pid) {
			t.Fatalf("process %d is no orphan, it died", pid)
		}
	}
	s := localtest.Stack(t, local.Options{Dir: dir})
	awaitGone(t, orphans)
	execute(t, connect(t, s.PostgresURL()), "SELECT 1")
}

func TestDetachedStackOutlivesItsOwner(t *testing.T) {
	dir := localtest.Dir(t)
	owner, children := startOwner(t, dir, detachEnv+"=1")
	owner.Process.Kill()
	owner.Wait()
	var already *local.RunningError
	if _, err := local.Start(t.Context(), local.Options{Dir: dir}); !errors.As(err, &already) {
		t.Errorf("Start beside a detached stack: %v", err)
	}
	if err := local.Erase(t.Context(), dir); !errors.As(err, &already) {
		t.Errorf("Erase of a detached stack: %v", err)
	}
	if err := local.Down(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, pid := range children {
		if running(pid) {
			t.Errorf("process %d runs after Down", pid)
		}
	}
	if err := local.Down(t.Context(), dir); !errors.Is(err, local.ErrNotRunning) {
		t.Errorf("Down again: %v", err)
	}
}

func TestRecycledProcessIDIsLeftAlone(t *testing.T) {
	bystander := exec.Command("sleep", "60")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bystander.Process.Kill(); bystander.Wait() })
	dir := localtest.Dir(t)
	old := fmt.Sprintf(`{"pid": %d, "start": 1, "boot": "another", "stop": 15, "grace": 1}`, bystander.Process.Pid)
	if err := os.MkdirAll(filepath.Join(dir, "processes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "processes", "kafka-1.json"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	localtest.Stack(t, local.Options{Dir: dir, Kafka: noKafka, Postgres: noPostgres})
	if !running(bystander.Process.Pid) {
		t.Error("a process that only has the same ID was killed")
	}
}

// running is false for zombies too: orphans may have nobody who asks for them.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	text := string(stat)
	return !strings.HasPrefix(text[strings.LastIndexByte(text, ')'):], ") Z")
}

func awaitGone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range pids {
		for running(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestOrdinaryUser starts a stack from an empty cache as another user, when we are root; all other tests run as
// whoever runs them.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel() // mostly waits for the registries
	if os.Geteuid() != 0 {
		localtest.Stack(t, local.Options{})
		return
	}
	const nobody = 65534
	home := localtest.Dir(t)
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(home, "local.test")
	copyBinary(t, binary)
	cmd := exec.Command(binary)
	cmd.Dir, cmd.Stderr = home, os.Stderr
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "JAVA_HOME=" + os.Getenv("JAVA_HOME"), ownerEnv + "=" + filepath.Join(home, "data"),
		"MAVEN_OPTS=-Duser.home=" + home} // Java looks into /etc/passwd
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	children := startAndRead(t, cmd)
	if _, err := os.Stat(filepath.Join(home, ".cache", "millrace")); err != nil {
		t.Error(err)
	}
	if err := local.Down(t.Context(), filepath.Join(home, "data")); err != nil {
		t.Error(err)
	}
	awaitGone(t, children)
}

// copyBinary puts this test binary where another user can run it.
func copyBinary(t *testing.T, to string) {
	t.Helper()
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, raw, 0o755); err != nil {
		t.Fatal(err)
	}
}

// As root, Postgres runs as another user: a folder that one cannot reach is named before anything is fetched.
func TestClosedFolderIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		localtest.Stack(t, local.Options{Dir: filepath.Join(closedFolder(t), "data"), Kafka: noKafka}) // our own is open to us
		return
	}
	closed := closedFolder(t)
	_, err := local.Start(t.Context(), local.Options{Dir: filepath.Join(closed, "data"), Kafka: noKafka})
	if err == nil || !strings.Contains(err.Error(), closed+":") {
		t.Errorf("%v does not name %s", err, closed)
	}
}

func closedFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(localtest.Dir(t), "closed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
