package topics

import (
	"github.com/twmb/franz-go/pkg/kgo"
)

// Partitioner is the one that every producer uses: FNV-1a with sarama's modulus, as Goka places keys. The default
// of franz-go and of Java, murmur2, agrees with it for one key in twelve.
func Partitioner() kgo.Partitioner {
	return kgo.StickyKeyPartitioner(kgo.SaramaCompatHasher(fnv1a))
}

// Partition is where Partitioner puts a key.
func Partition(key []byte, partitions int32) int32 {
	p := int32(fnv1a(key)) % partitions
	if p < 0 {
		p = -p
	}
	return p
}

func fnv1a(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}
