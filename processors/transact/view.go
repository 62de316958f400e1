package transact

import (
	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ViewOptions make a goka.View that can read a table written inside transactions. Goka's own consumer and topic manager
// wait for ever on such a log, whose last offset nobody sees. The view's values are kept in dir, or in memory if it is
// empty. The client options (TLS, SASL) are those of Config.Client.
func ViewOptions(dir string, client ...kgo.Opt) []goka.ViewOption {
	return []goka.ViewOption{
		goka.WithViewConsumerSaramaBuilder(func(brokers []string, _ string) (sarama.Consumer, error) {
			return &tableConsumer{brokers: brokers, opts: client, report: func(error) {}, point: func() {}}, nil
		}),
		goka.WithViewTopicManagerBuilder(func(brokers []string) (goka.TopicManager, error) {
			return newTopicManager(brokers, client)
		}),
		goka.WithViewStorageBuilder(func(topic string, partition int32) (storage.Storage, error) {
			b, err := openViewBackend(dir, topic, partition)
			if err != nil {
				return nil, err
			}
			return newTable(b, topic, partition, 0), nil
		}),
	}
}

func openViewBackend(dir, topic string, partition int32) (backend, error) {
	if dir == "" {
		return newMemoryStore(), nil
	}
	return openFreshLevelStore(dir, topic, partition, defaultDeleteRetention/2)
}
