package transact

import "github.com/twmb/franz-go/pkg/kgo"

// Partitioner places keys as goka's sarama producer does: FNV-1a, sarama's modulus. It is the default of
// Config.Partitioner. Every producer of a topic that a goka group reads must use the same one.
func Partitioner() kgo.Partitioner {
	return kgo.StickyKeyPartitioner(kgo.SaramaCompatHasher(fnv1a))
}

// fnv1a is hash/fnv's New32a without its allocation: it runs once per emit.
func fnv1a(key []byte) uint32 {
	h := uint32(2166136261)
	for _, b := range key {
		h = (h ^ uint32(b)) * 16777619
	}
	return h
}

// pinned sends the changelog to the partition whose callback wrote it, whatever the key says, so that a partition's table
// and its changelog can never part. All other topics go by the given partitioner.
type pinned struct {
	kgo.Partitioner
	table string
}

func (p pinned) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == p.table {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return p.Partitioner.ForTopic(topic)
}
