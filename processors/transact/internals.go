package transact

import (
	"fmt"
	"reflect"
	"sort"
	"unsafe"

	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What goka knows and does not export. Both readings are checked by New's caller's first use and by tests against the
// goka version in go.mod; a goka that changed them is refused with ErrUnsupported, not misread.

// callbackOf is the callback of an input edge. Everything else of an edge is exported.
func callbackOf(e goka.Edge) (goka.ProcessCallback, error) {
	v := reflect.ValueOf(e)
	if v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
		f := v.Elem().FieldByName("cb")
		if f.IsValid() && f.Type() == reflect.TypeFor[goka.ProcessCallback]() {
			return *(*goka.ProcessCallback)(unsafe.Pointer(f.UnsafeAddr())), nil
		}
	}
	return nil, fmt.Errorf("%w: this goka's edge %T has no callback", ErrUnsupported, e)
}

// headersOf are the headers that goka.WithCtxEmitHeaders has put into options, by name.
func headersOf(options []goka.ContextOption) []kgo.RecordHeader {
	if len(options) == 0 {
		return nil
	}
	into := reflect.New(reflect.TypeFor[goka.ContextOption]().In(0).Elem())
	for _, o := range options {
		reflect.ValueOf(o).Call([]reflect.Value{into})
	}
	field := into.Elem().FieldByName("emitHeaders")
	headers := make([]kgo.RecordHeader, 0, field.Len())
	for it := field.MapRange(); it.Next(); {
		headers = append(headers, kgo.RecordHeader{Key: it.Key().String(), Value: it.Value().Bytes()})
	}
	sort.Slice(headers, func(i, j int) bool { return headers[i].Key < headers[j].Key })
	return headers
}
