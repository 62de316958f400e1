package transact

import (
	"fmt"
	"reflect"
	"sort"
	"unsafe"

	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What goka knows and does not export. Tests read both with the goka version in go.mod; a goka that changed one is refused
// with ErrUnsupported (the callbacks by Processor, the headers by New), not misread.

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

// emitHeaders is the field in which goka.WithCtxEmitHeaders leaves headers.
const emitHeaders = "emitHeaders"

// hasEmitHeaders refuses options, of the type of goka.ContextOption, that headersOf cannot read.
func hasEmitHeaders(option reflect.Type) error {
	if option.Kind() == reflect.Func && option.NumIn() == 1 && option.In(0).Kind() == reflect.Pointer && option.In(0).Elem().Kind() == reflect.Struct {
		f, ok := option.In(0).Elem().FieldByName(emitHeaders)
		if ok && f.Type == reflect.TypeFor[goka.Headers]() {
			return nil
		}
	}
	return fmt.Errorf("%w: this goka's %v takes no headers", ErrUnsupported, option)
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
	field := into.Elem().FieldByName(emitHeaders)
	headers := make([]kgo.RecordHeader, 0, field.Len())
	for it := field.MapRange(); it.Next(); {
		headers = append(headers, kgo.RecordHeader{Key: it.Key().String(), Value: it.Value().Bytes()})
	}
	sort.Slice(headers, func(i, j int) bool { return headers[i].Key < headers[j].Key })
	return headers
}
