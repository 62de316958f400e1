package gateway

import (
	"net/url"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Stripe's limits on parameters.
const (
	maxAmount        = 99_999_999
	maxMetadata      = 50
	maxMetadataKey   = 40
	maxMetadataValue = 500
	maxText          = 1000
	maxKeyChars      = 255
	maxPage          = 100
	defaultPage      = 10
)

// A form reads the parameters of one request and keeps the first thing that is wrong with them; what nobody asked for
// is unknown.
type form struct {
	values  url.Values
	known   map[string]bool
	refused *refusal
}

func newForm(values url.Values) *form { return &form{values: values, known: map[string]bool{}} }

func (f *form) refuse(r *refusal) {
	if f.refused == nil {
		f.refused = r
	}
}

func (f *form) text(name string) string {
	f.known[name] = true
	value := f.values.Get(name)
	if utf8.RuneCountInString(value) > maxText {
		f.refuse(invalid(name, "", "Invalid string: must be at most %d characters", maxText))
	}
	return value
}

// word reads a parameter that may be absent, but not empty.
func (f *form) word(name string) string {
	value := f.text(name)
	if value == "" && f.values.Has(name) {
		f.refuse(invalid(name, "parameter_invalid_empty", "You passed an empty string for '%s'. We assume empty values are an attempt to unset a parameter; however '%s' cannot be unset.", name, name))
	}
	return value
}

func (f *form) required(name string) string {
	value := f.word(name)
	if !f.values.Has(name) {
		f.refuse(invalid(name, "parameter_missing", "Missing required param: %s.", name))
	}
	return value
}

func (f *form) oneOf(name string, allowed ...string) string {
	value := f.word(name)
	if value == "" {
		return ""
	}
	for _, a := range allowed {
		if value == a {
			return value
		}
	}
	f.refuse(invalid(name, "", "Invalid %s: must be one of %s", name, strings.Join(allowed, ", ")))
	return ""
}

// integer reads a whole number; absent is 0 and false.
func (f *form) integer(name string) (int64, bool) {
	value := f.word(name)
	if value == "" {
		return 0, false
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		f.refuse(invalid(name, "parameter_invalid_integer", "Invalid integer: %s", value))
	}
	return n, true
}

// amount reads money in minor units; absent is 0.
func (f *form) amount() int64 {
	n, given := f.integer("amount")
	switch {
	case given && n < 1:
		f.refuse(invalid("amount", "parameter_invalid_integer", "This value must be greater than or equal to 1."))
	case n > maxAmount:
		f.refuse(invalid("amount", "amount_too_large", "Amount must be no more than 999,999.99 (%d minor units)", maxAmount))
	}
	return n
}

// metadata reads metadata[key]=value; an empty value unsets, so it is left out.
func (f *form) metadata() map[string]string {
	var pairs map[string]string
	for name, values := range f.values {
		key, ok := strings.CutPrefix(name, "metadata[")
		if !ok || !strings.HasSuffix(key, "]") {
			continue
		}
		f.known[name] = true
		key = strings.TrimSuffix(key, "]")
		f.checkMetadata(name, key, values[0])
		if values[0] == "" {
			continue
		}
		if pairs == nil {
			pairs = map[string]string{}
		}
		pairs[key] = values[0]
	}
	if len(pairs) > maxMetadata {
		f.refuse(invalid("metadata", "", "Metadata can have at most %d keys", maxMetadata))
	}
	return pairs
}

func (f *form) checkMetadata(name, key, value string) {
	if key == "" || utf8.RuneCountInString(key) > maxMetadataKey {
		f.refuse(invalid(name, "", "Metadata keys have 1 to %d characters", maxMetadataKey))
	}
	if utf8.RuneCountInString(value) > maxMetadataValue {
		f.refuse(invalid(name, "", "Metadata values can have up to %d characters", maxMetadataValue))
	}
}

// list reads name[]=a&name[]=b and name[0]=a&name[1]=b.
func (f *form) list(name string) []string {
	var items []string
	for given, values := range f.values {
		if rest, ok := strings.CutPrefix(given, name+"["); ok && strings.HasSuffix(rest, "]") {
			f.known[given] = true
			items = append(items, values...)
		}
	}
	return items
}

// done returns the first thing wrong, an unknown parameter last: whoever misspells amount hears that amount is missing.
func (f *form) done() *refusal {
	if f.refused != nil {
		return f.refused
	}
	names := make([]string, 0, len(f.values))
	for name := range f.values {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if !f.known[name] {
			return unknownParameter(name)
		}
	}
	return nil
}

func unknownParameter(name string) *refusal {
	if strings.HasPrefix(name, "expand") {
		return invalid("expand", "", "simulator: nothing can be expanded")
	}
	return invalid(name, "parameter_unknown", "Received unknown parameter: %s", name)
}
