package local

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaVersion is not 4.3.0 or 4.3.1: their brokers, killed alone, forget to end transactions that are decided (KAFKA-20734).
// TestAKilledBrokerEndsItsTransactions shows it.
const kafkaVersion = "4.2.1"

// kafkaPom names what Maven fetches; kafkaSums is what sha256sum says of the jars. After a change of the first, run
// LC_ALL=C sha256sum *.jar in the folder that Maven filled and look at the difference.
//
//go:embed kafka.pom.xml
var kafkaPom string

//go:embed kafka.sha256
var kafkaSums string

const (
	kafkaFetchMB   = 150 // jars here and in Maven's own repository
	kafkaPrepareMB = 150 // class archive, and the broker that it is made by
)

// kafkaHome is a fetched Kafka, ready to start.
type kafkaHome struct {
	java      java
	classPath string
	archive   string // class data of an earlier start, or ""; halves the time of the next
	bootstrap string // what a formatted data folder holds besides meta.properties
}

func fetchKafka(ctx context.Context, c cache) (kafkaHome, error) {
	j, err := findJava(ctx)
	if err != nil {
		return kafkaHome{}, err
	}
	if err := wantLinux(kafkaPart); err != nil {
		return kafkaHome{}, err
	}
	jars, err := c.get(ctx, piece{
		part: kafkaPart, name: "kafka-" + kafkaVersion + "-" + digest(kafkaSums), needMB: kafkaFetchMB,
		make: func(ctx context.Context, into string, attempt int) error { return fetchJars(ctx, c, into, attempt) },
	})
	if err != nil {
		return kafkaHome{}, err
	}
	classPath, err := sortedJars(jars)
	if err != nil {
		return kafkaHome{}, err
	}
	home := kafkaHome{java: j, classPath: classPath}
	ready, err := c.get(ctx, piece{
		part: kafkaPart, name: "kafka-" + kafkaVersion + "-ready-" + digest(j.path+j.banner+classPath+kafkaProperties), needMB: kafkaPrepareMB,
		make: func(ctx context.Context, into string, _ int) error { return prepareKafka(ctx, c, home, into) },
	})
	if err != nil {
		return kafkaHome{}, err
	}
	home.archive = filepath.Join(ready, classArchive)
	home.bootstrap = filepath.Join(ready, bootstrapFile)
	return home, nil
}

// digest shortens what a cached folder depends on to a part of its name.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:5])
}

func fetchJars(ctx context.Context, c cache, into string, attempt int) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return &MissingError{Part: kafkaPart, What: "Maven, which fetches it (no mvn in PATH)", Hint: "install it, for example: apt-get install maven"}
	}
	pom := filepath.Join(c.dir, ".kafka.pom.xml")
	if err := os.WriteFile(pom, []byte(kafkaPom), 0o644); err != nil {
		return err
	}
	args := []string{"-B", "-q", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=" + into}
	if attempt > 0 {
		own, err := os.MkdirTemp("", "millrace-maven-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(own)
		args = append(args, "-Dmaven.repo.local="+own)
	}
	cmd := exec.CommandContext(ctx, mvn, args...)
	if err := runFetch(ctx, c.log, "fetching "+kafkaPart+" "+kafkaVersion+" from Maven Central (36 jars, 36 MB)", cmd); err != nil {
		return err
	}
	return checkFolder(into, kafkaSums)
}

// sortedJars is the class path; always in the same order, because the class archive is only good for that.
func sortedJars(dir string) (string, error) {
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar")) // sorted
	if err != nil {
		return "", err
	}
	return strings.Join(jars, string(os.PathListSeparator)), nil
}

const (
	classArchive  = "classes.jsa"
	bootstrapFile = "bootstrap.checkpoint"
)

// prepareKafka does once what would cost each start of a broker seconds: it formats an empty data folder, and runs a
// broker through what brokers do, so that the JVM writes its classes into an archive.
func prepareKafka(ctx context.Context, c cache, home kafkaHome, into string) error {
	fmt.Fprintf(c.log, "preparing %s %s for quick starts (once, some seconds)\n", kafkaPart, kafkaVersion)
	scratch, err := os.MkdirTemp("", "millrace-kafka-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	n, err := scratchNode(scratch, home)
	if err != nil {
		return err
	}
	if err := formatNode(ctx, n, home); err != nil {
		return err
	}
	if err := copyFile(n.dataFile(bootstrapFile), filepath.Join(into, bootstrapFile)); err != nil {
		return err
	}
	return archiveClasses(ctx, n, home, filepath.Join(into, classArchive))
}

func scratchNode(dir string, home kafkaHome) (*kafkaNode, error) {
	var p ports
	nodes, err := layOut(dir, 1, scratchPorts(), &p)
	if err != nil {
		return nil, err
	}
	nodes[0].cluster = newKafkaID()
	return nodes[0], nodes[0].writeProperties(nodes, nil)
}

func formatNode(ctx context.Context, n *kafkaNode, home kafkaHome) error {
	args := append(home.jvm(KafkaOptions{}), "kafka.tools.StorageTool", "format", "--cluster-id", n.cluster, "-c", n.properties())
	if out, err := exec.CommandContext(ctx, home.java.path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format a data folder: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// archiveClasses needs a clean end of the broker: the JVM writes the archive at its exit.
func archiveClasses(ctx context.Context, n *kafkaNode, home kafkaHome, archive string) error {
	p := n.process(home, KafkaOptions{JVM: []string{"-XX:ArchiveClassesAtExit=" + archive}}, false)
	p.grace = time.Minute
	if err := p.Start(ctx); err != nil {
		return err
	}
	err := exercise(ctx, n.client)
	if err := errors.Join(err, p.Stop(ctx)); err != nil {
		return err
	}
	if !exists(archive) {
		return fmt.Errorf("the JVM wrote no class archive\n%s", logTail(p.log))
	}
	return nil
}

// exercise touches what is worth archiving: topics, a transactional producer, a group.
func exercise(ctx context.Context, address string) error {
	const topic = "warm"
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(address), kgo.DefaultProduceTopic(topic), kgo.TransactionalID(topic),
		kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, topic); err != nil {
		return fmt.Errorf("warm up: create a topic: %w", err)
	}
	if err := cl.BeginTransaction(); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	if err := cl.ProduceSync(ctx, kgo.StringRecord("warm")).FirstErr(); err != nil {
		return fmt.Errorf("warm up: produce: %w", err)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("warm up: commit: %w", err)
	}
	if err := cl.PollRecords(ctx, 1).Err0(); err != nil {
		return fmt.Errorf("warm up: consume: %w", err)
	}
	return nil
}

// jvm is how each of Kafka's classes is run: small, and quick to start.
func (h kafkaHome) jvm(o KafkaOptions) []string {
	heapMB := o.HeapMB
	if heapMB == 0 {
		heapMB = kafkaHeapMB
	}
	args := []string{
		"-Xms64m", fmt.Sprintf("-Xmx%dm", heapMB), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-Dlog4j2.StatusLogger.level=OFF",
	}
	if h.archive != "" {
		args = append(args, "-XX:SharedArchiveFile="+h.archive, "-Xshare:auto")
	}
	return append(append(args, o.JVM...), "-cp", h.classPath)
}

const kafkaHeapMB = 256

// process is the broker as a child process. Kafka recovers from a crash by design, so that ours may crash it too.
func (n *kafkaNode) process(home kafkaHome, o KafkaOptions, detached bool) *Process {
	return &Process{command: command{
		name: n.name(), path: home.java.path, args: append(home.jvm(o), "kafka.Kafka", n.properties()),
		env: os.Environ(), dir: n.dir, log: filepath.Join(n.dir, "server.log"), record: n.record,
		detached: detached, stopWith: syscall.SIGTERM, dieWith: syscall.SIGKILL, grace: kafkaGrace,
		ready: n.answers, readyWait: kafkaReadyWait,
	}}
}
