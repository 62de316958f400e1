package local

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// startKafkaStandIn runs kfake in this process, with its data on disk, where there is no Java. Killed in the middle
// of a transaction it does not keep what Kafka keeps, so nothing is proven on it.
func startKafkaStandIn(b *builder, why *MissingError) (started, error) {
	if b.Detach {
		return started{}, fmt.Errorf("%w (its stand-in lives in this process and cannot be detached)", why)
	}
	port, err := b.ports.next(firstPort(b.Kafka.Port, kafkaPort))
	if err != nil {
		return started{}, err
	}
	fake, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(filepath.Join(b.Dir, "kfake")),
		kfake.GroupMinSessionTimeout(500*time.Millisecond),
		// As kafka.properties: the place of a group that is away is kept. The roles refuse to start without it.
		kfake.BrokerConfigs(map[string]string{"offsets.retention.minutes": "2147483647"}),
	)
	if err != nil {
		return started{}, fmt.Errorf("kfake: %w", err)
	}
	return started{
		part: Part{
			Name: "Kafka", Version: "kfake, in process", Kind: StandIn, Address: fake.ListenAddrs()[0],
			Note: fmt.Sprintf("missing %s; kfake cannot show what a crash in a transaction does, replication, or speed", why.What),
		},
		stop: func(context.Context) error { fake.Close(); return nil },
	}, nil
}
