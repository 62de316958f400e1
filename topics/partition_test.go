package topics_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/topics"
)

// TestPartitionersAgree holds ours, in both its forms, to sarama's as Goka builds it. Goka's processors place keys by
// the one, everybody else by the other; a key on which they differed would have two states.
func TestPartitionersAgree(t *testing.T) {
	theirs := sarama.NewCustomHashPartitioner(fnv.New32a)("any")
	ours := topics.Partitioner().ForTopic("any")
	random := rand.New(rand.NewPCG(1, 2))
	for _, partitions := range []int32{1, 2, 3, 6, 12, 16, 17, 100} {
		for i := range 10_000 {
			key := someKey(random, i)
			want, err := theirs.Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}, partitions)
			if err != nil {
				t.Fatal(err)
			}
			if got := topics.Partition(key, partitions); got != want {
				t.Fatalf("key %q of %d: Partition says %d, sarama %d", key, partitions, got, want)
			}
			if got := ours.Partition(&kgo.Record{Key: key}, int(partitions)); got != int(want) {
				t.Fatalf("key %q of %d: Partitioner says %d, sarama %d", key, partitions, got, want)
			}
		}
	}
}

// someKey is a UUID, a SKU, or bytes.
func someKey(random *rand.Rand, i int) []byte {
	switch i % 3 {
	case 0:
		return fmt.Appendf(nil, "%08x-%04x-5%03x-8%03x-%012x", random.Uint32(), random.Uint32()&0xffff, random.Uint32()&0xfff, random.Uint32()&0xfff, random.Uint64()&0xffffffffffff)
	case 1:
		return fmt.Appendf(nil, "SKU-%d", i)
	}
	key := make([]byte, 1+random.IntN(topics.MaxKeyBytes))
	for j := range key {
		key[j] = byte(random.Uint32())
	}
	return key
}
