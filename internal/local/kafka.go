package local

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

const kafkaPart = "Apache Kafka"

// KafkaOptions say which Kafka is wanted. The zero value is one broker on port 9092 or the next free one.
type KafkaOptions struct {
	Off      bool     // no Kafka at all
	External []string // addresses of one that already runs: nothing is started
	StandIn  bool     // without Java, kfake in this process will do

	Brokers  int               // each is a controller too; 3 or more replicate three times, two in sync; default 1
	Port     int               // of the first client listener; the others, and the controllers', follow where free
	HeapMB   int               // of each broker; default 256
	JVM      []string          // more JVM options, after ours
	Settings map[string]string // more broker settings, after ours
}

const kafkaPort = 9092

const (
	kafkaReadyWait = 60 * time.Second
	kafkaGrace     = 20 * time.Second
	// clusterGrace is short because of several brokers that go down together, the last ones find no quorum to say
	// goodbye to, and would wait for minutes. They recover from being killed as from any crash.
	clusterGrace = 3 * time.Second
)

//go:embed kafka.properties.tmpl
var kafkaProperties string

var kafkaTemplate = template.Must(template.New("kafka.properties").Parse(kafkaProperties))

func startKafka(ctx context.Context, b *builder) (started, error) {
	o := b.Kafka
	if len(o.External) > 0 {
		return externalKafka(ctx, o.External)
	}
	home, err := fetchKafka(ctx, b.cache)
	if missing := (*MissingError)(nil); errors.As(err, &missing) && o.StandIn && lacksJava(ctx) {
		return startKafkaStandIn(b, missing)
	}
	if err != nil {
		return started{}, err
	}
	if err := wantDisk(kafkaPart, b.Dir, kafkaDataMB); err != nil {
		return started{}, err
	}
	return retryPorts(func() (started, error) { return startCluster(ctx, b, home) })
}

// kafkaDataMB is what a broker takes before anybody uses it, and some.
const kafkaDataMB = 200

func lacksJava(ctx context.Context) bool {
	_, err := findJava(ctx)
	missing := (*MissingError)(nil)
	return errors.As(err, &missing)
}

// portTries is how often ports are looked for again because somebody was quicker.
const portTries = 3

// retryPorts starts a server again on other ports when it could not bind: between finding a port free and binding
// it, another process (of another test, say) may take it.
func retryPorts(start func() (started, error)) (s started, err error) {
	for range portTries {
		s, err = start()
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "address already in use") {
			return s, err
		}
	}
	return s, err
}

func startCluster(ctx context.Context, b *builder, home kafkaHome) (started, error) {
	o := b.Kafka
	count := max(o.Brokers, 1)
	nodes, err := layOut(filepath.Join(b.Dir, "kafka"), count, firstPort(o.Port, kafkaPort), b.ports)
	if err != nil {
		return started{}, err
	}
	cluster, err := claimCluster(filepath.Join(b.Dir, "kafka", "cluster.json"), count)
	if err != nil {
		return started{}, err
	}
	var all []*Process
	for _, n := range nodes {
		n.cluster, n.record = cluster, b.record(n.name())
		if err := errors.Join(n.format(home.bootstrap), n.writeProperties(nodes, o.Settings)); err != nil {
			return started{}, fmt.Errorf("%s: %w", n.name(), err)
		}
		p := n.process(home, o, b.Detach)
		if count > 1 {
			p.grace = clusterGrace
		}
		all = append(all, p)
	}
	if err := startBrokers(ctx, nodes, all); err != nil {
		return started{}, errors.Join(err, killAll(all))
	}
	return started{
		part: Part{
			Name: "Kafka", Version: kafkaPart + " " + kafkaVersion, Kind: Real,
			Address: strings.Join(clientAddresses(nodes), ","), Log: all[0].log,
		},
		processes: all,
	}, nil
}

// startBrokers starts all at once, because none is ready before most are, and waits until each has heard of all.
func startBrokers(ctx context.Context, nodes []*kafkaNode, all []*Process) error {
	g, each := errgroup.WithContext(ctx)
	for _, p := range all {
		g.Go(func() error { return p.Start(each) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, n := range nodes {
		seesAll := func(ctx context.Context) error { return n.seesBrokers(ctx, len(nodes)) }
		if err := all[i].awaitReady(ctx, all[i].latest(), seesAll); err != nil {
			return fmt.Errorf("%s: %w", n.name(), err)
		}
	}
	return nil
}

func killAll(all []*Process) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Kill9())
	}
	return errors.Join(errs...)
}

// kafkaNode is one broker of the cluster, a controller too.
type kafkaNode struct {
	id         int
	dir        string
	client     string // address for clients and the other brokers
	controller string // address for the quorum
	cluster    string
	record     string
}

func (n *kafkaNode) name() string                { return fmt.Sprintf("kafka-%d", n.id) }
func (n *kafkaNode) properties() string          { return filepath.Join(n.dir, "server.properties") }
func (n *kafkaNode) dataFile(name string) string { return filepath.Join(n.dir, "data", name) }

// layOut gives each node its folder and ports. Ports may be others at each start: a broker registers its address
// anew, and the quorum's voters are read from the properties.
func layOut(dir string, count, port int, p *ports) ([]*kafkaNode, error) {
	var nodes []*kafkaNode
	for id := 1; id <= count; id++ {
		client, err := p.next(port)
		if err != nil {
			return nil, err
		}
		controller, err := p.next(client + 1)
		if err != nil {
			return nil, err
		}
		n := &kafkaNode{id: id, dir: filepath.Join(dir, fmt.Sprint(id)), client: loopback(client), controller: loopback(controller)}
		n.record = filepath.Join(n.dir, "process.json")
		if err := os.MkdirAll(filepath.Join(n.dir, "data"), 0o700); err != nil { // orders are nobody else's business
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// firstPort is the wanted port, or the default one.
func firstPort(want, otherwise int) int {
	if want == 0 {
		return otherwise
	}
	return want
}

// scratchPorts is where to look for ports that nobody has to know by heart. Processes that look at the same time
// should begin at different places.
func scratchPorts() int { return 20000 + mrand.IntN(10000) }

func clientAddresses(nodes []*kafkaNode) []string {
	var addresses []string
	for _, n := range nodes {
		addresses = append(addresses, n.client)
	}
	return addresses
}

// clusterClaim is what must not change about a cluster while its data stays.
type clusterClaim struct {
	ID      string `json:"id"`
	Brokers int    `json:"brokers"`
}

// claimCluster returns the cluster's ID. Each data folder has its own, so that a client that reaches another
// cluster, on a port that was ours before, is refused and not misled.
func claimCluster(path string, brokers int) (string, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		claim := clusterClaim{ID: newKafkaID(), Brokers: brokers}
		return claim.ID, writeJSON(path, claim)
	}
	if err != nil {
		return "", err
	}
	var claim clusterClaim
	if err := json.Unmarshal(raw, &claim); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if claim.Brokers != brokers {
		return "", fmt.Errorf("%s holds a Kafka of %d brokers, not %d: use another folder", filepath.Dir(path), claim.Brokers, brokers)
	}
	return claim.ID, nil
}

// newKafkaID is a random ID as Kafka writes them.
func newKafkaID() string {
	var raw [16]byte
	rand.Read(raw[:])           // never fails
	raw[0] = raw[0]&0x7f | 0x01 // Kafka forbids a leading dash, and keeps the lowest numbers for itself
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// format makes the data folder a formatted one, as StorageTool would in a second and a half.
func (n *kafkaNode) format(bootstrap string) error {
	meta := n.dataFile("meta.properties")
	if exists(meta) {
		return nil
	}
	if err := copyFile(bootstrap, n.dataFile(bootstrapFile)); err != nil {
		return err
	}
	text := fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n", n.cluster, n.id, newKafkaID())
	return os.WriteFile(meta, []byte(text), 0o644)
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

const (
	replicas       = 3
	replicasInSync = 2
)

func (n *kafkaNode) writeProperties(nodes []*kafkaNode, more map[string]string) error {
	values := struct {
		ID, Replicas, InSync, ElectionMS int
		Voters, Client, Controller, Data string
		Settings                         []string
	}{ID: n.id, Replicas: 1, InSync: 1, ElectionMS: 100, Client: n.client, Controller: n.controller, Data: n.dataFile("")}
	if len(nodes) >= replicas {
		values.Replicas, values.InSync, values.ElectionMS = replicas, replicasInSync, 500
	}
	var voters []string
	for _, v := range nodes {
		voters = append(voters, fmt.Sprintf("%d@%s", v.id, v.controller))
	}
	values.Voters = strings.Join(voters, ",")
	for key, value := range more {
		values.Settings = append(values.Settings, key+"="+value)
	}
	slices.Sort(values.Settings)
	var text strings.Builder
	if err := kafkaTemplate.Execute(&text, values); err != nil {
		return err
	}
	return os.WriteFile(n.properties(), []byte(text.String()), 0o644)
}

// answers reports whether this broker serves clients: it tells them that it is there itself.
func (n *kafkaNode) answers(ctx context.Context) error {
	seen, err := brokersSeen(ctx, n.client, n.cluster)
	if err == nil && !slices.Contains(seen, int32(n.id)) {
		return errors.New("it is not registered yet")
	}
	return err
}

func (n *kafkaNode) seesBrokers(ctx context.Context, count int) error {
	seen, err := brokersSeen(ctx, n.client, n.cluster)
	if err == nil && len(seen) < count {
		return fmt.Errorf("it sees %d of %d brokers", len(seen), count)
	}
	return err
}

// askWait bounds one attempt to get an answer.
const askWait = time.Second

// brokersSeen asks the broker at address, and no other, for the IDs of the brokers it knows. With a cluster, an
// answer from another one is an error.
func brokersSeen(ctx context.Context, address, cluster string) ([]int32, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.RequestRetries(0), kgo.DialTimeout(askWait),
		kgo.RequestTimeoutOverhead(askWait)) // the greeting of a connection heeds this one only, not the context
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // nil would ask for all
	resp, err := req.RequestWith(ctx, cl.SeedBrokers()[0])
	if err != nil {
		return nil, err
	}
	if got := deref(resp.ClusterID); cluster != "" && got != cluster {
		return nil, fmt.Errorf("%s belongs to another Kafka cluster, %q", address, got)
	}
	var ids []int32
	for _, b := range resp.Brokers {
		ids = append(ids, b.NodeID)
	}
	return ids, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func externalKafka(ctx context.Context, addresses []string) (started, error) {
	if _, err := brokersSeen(ctx, addresses[0], ""); err != nil {
		return started{}, fmt.Errorf("kafka at %s does not answer: %w", addresses[0], err)
	}
	return started{part: Part{Name: "Kafka", Version: "yours", Kind: External, Address: strings.Join(addresses, ",")}}, nil
}
