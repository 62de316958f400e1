package processors

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace/millrace/processors/inventory"
)

// stockTable is the codec of the inventory group's table: an InventoryState on the wire, an inventory.State in the
// rule. It is read and written for every reservation, so it goes between the two without the generated message; a test
// holds it to that.
type stockTable struct{}

// Field numbers of InventoryState and RememberedCommand.
const (
	fieldOnHand       = 1
	fieldReserved     = 2
	fieldVersion      = 3
	fieldStockVersion = 4
	fieldCommands     = 5
	fieldForgotten    = 6

	fieldRequestID   = 1
	fieldFingerprint = 2
	fieldRefused     = 3
)

const rememberedBytes = 32 // at most, on the wire

func (stockTable) Encode(value any) ([]byte, error) {
	s := value.(inventory.State)
	b := make([]byte, 0, 48+rememberedBytes*len(s.Remembered))
	b = appendNumber(b, fieldOnHand, s.OnHand)
	b = appendNumber(b, fieldReserved, s.Reserved)
	b = appendNumber(b, fieldVersion, s.Version)
	b = appendNumber(b, fieldStockVersion, s.StockVersion)
	for i := range s.Remembered {
		b = appendRemembered(b, &s.Remembered[i])
	}
	return appendNumber(b, fieldForgotten, s.Forgotten), nil
}

func appendNumber(b []byte, field protowire.Number, n int64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(n))
}

func appendRemembered(b []byte, m *inventory.Remembered) []byte {
	var space [rememberedBytes]byte
	r := protowire.AppendBytes(protowire.AppendTag(space[:0], fieldRequestID, protowire.BytesType), m.ID[:])
	if m.Fingerprint != 0 {
		r = protowire.AppendFixed64(protowire.AppendTag(r, fieldFingerprint, protowire.Fixed64Type), m.Fingerprint)
	}
	r = appendNumber(r, fieldRefused, int64(m.Refused))
	return protowire.AppendBytes(protowire.AppendTag(b, fieldCommands, protowire.BytesType), r)
}

// Decode fails only on bytes that we did not write.
func (stockTable) Decode(data []byte) (any, error) {
	var s inventory.State
	err := eachField(data, func(field protowire.Number, number uint64, bytes []byte) error {
		switch field {
		case fieldOnHand:
			s.OnHand = int64(number)
		case fieldReserved:
			s.Reserved = int64(number)
		case fieldVersion:
			s.Version = int64(number)
		case fieldStockVersion:
			s.StockVersion = int64(number)
		case fieldForgotten:
			s.Forgotten = int64(number)
		case fieldCommands:
			m, err := remembered(bytes)
			s.Remembered = append(s.Remembered, m)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the inventory table: %w", err)
	}
	return s, nil
}

func remembered(data []byte) (m inventory.Remembered, err error) {
	err = eachField(data, func(field protowire.Number, number uint64, bytes []byte) error {
		switch field {
		case fieldRequestID:
			copy(m.ID[:], bytes)
		case fieldFingerprint:
			m.Fingerprint = number
		case fieldRefused:
			m.Refused = inventory.Reason(number)
		}
		return nil
	})
	return m, err
}

// eachField gives each field of a message: its number, or its bytes.
func eachField(data []byte, visit func(field protowire.Number, number uint64, bytes []byte) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var number uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(data)
		case protowire.Fixed64Type:
			number, n = protowire.ConsumeFixed64(data)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(field, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := visit(field, number, bytes); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
