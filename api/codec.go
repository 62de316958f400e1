package api

import (
	"bytes"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// codec is connect's own, but for one thing: it never fails to decode. Connect's error for bytes that are no message
// carries no reason, and no interceptor sees it; so the message is marked instead, and the interceptor refuses it.
type codec struct {
	name      string
	marshal   func(dst []byte, m proto.Message) ([]byte, error)
	unmarshal func([]byte, proto.Message) error
}

func codecs() []connect.HandlerOption {
	fromJSON := func(b []byte, m proto.Message) error {
		if len(b) == 0 {
			return errors.New("nothing at all is no JSON object")
		}
		return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
	}
	return []connect.HandlerOption{
		connect.WithCodec(codec{"proto", proto.MarshalOptions{}.MarshalAppend, proto.Unmarshal}),
		connect.WithCodec(codec{"json", protojson.MarshalOptions{}.MarshalAppend, fromJSON}),
		connect.WithCodec(codec{"json; charset=utf-8", protojson.MarshalOptions{}.MarshalAppend, fromJSON}),
	}
}

func (c codec) Name() string                  { return c.name }
func (c codec) Marshal(m any) ([]byte, error) { return c.marshal(nil, m.(proto.Message)) }

// MarshalAppend lets connect reuse its buffers.
func (c codec) MarshalAppend(dst []byte, m any) ([]byte, error) {
	return c.marshal(dst, m.(proto.Message))
}

func (c codec) Unmarshal(b []byte, m any) error {
	message := m.(proto.Message)
	if err := c.unmarshal(b, message); err != nil {
		proto.Reset(message)
		message.ProtoReflect().SetUnknown(protowire.AppendString(bytes.Clone(undecodable), err.Error()))
	}
	return nil
}

// undecodable marks a message, before the error, as an unknown field of the highest number that there is.
var undecodable = protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.BytesType)

// decoded is why a message could not be decoded, or nil.
func decoded(m proto.Message) error {
	why, marked := bytes.CutPrefix(m.ProtoReflect().GetUnknown(), undecodable)
	if !marked {
		return nil
	}
	said, _ := protowire.ConsumeString(why)
	return refuse(InvalidArgument, "the request is no %s: %s", m.ProtoReflect().Descriptor().Name(), said)
}
