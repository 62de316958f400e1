package topics_test

import (
	"os"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TestTheDescriptorSetKnowsEveryTopic keeps schemas/descriptors.binpb of use to Kafka's tools: it stands alone, and has
// the message of every topic with the fields that we write.
func TestTheDescriptorSetKnowsEveryTopic(t *testing.T) {
	b, err := os.ReadFile("../schemas/descriptors.binpb")
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(b, &set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range table.All() {
		if topic.Message == nil {
			continue
		}
		d, err := files.FindDescriptorByName(protoreflect.FullName(topic.Type()))
		if err != nil {
			t.Errorf("%s: %v", topic.Name, err)
			continue
		}
		if have, want := d.(protoreflect.MessageDescriptor).Fields().Len(), topic.Message.ProtoReflect().Descriptor().Fields().Len(); have != want {
			t.Errorf("%s has %d fields in the descriptor set, %d in the code: run `make generate`", topic.Type(), have, want)
		}
	}
}
