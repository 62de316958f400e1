package main

import (
	"slices"
	"strings"
	"testing"
)

func TestAPurchaseLogIsRead(t *testing.T) {
	want := []purchase{{line: 1, customer: "00004", sku: "CD", quantity: 2}, {line: 2, customer: "00021", sku: "CD", quantity: 1}}
	for _, c := range []struct {
		name, log string
		r         replay
		first     int
	}{
		{"fields between white space", " 00004 0001 19970101  2   29.33\n 00021 0003 19970118  1   11.77\n", replay{format: "columns", customer: "1", quantity: "4", constantSKU: "CD"}, 1},
		{"characters", " 00004 0001 19970101  2   29.33\n 00021 0003 19970118  1   11.77\n", replay{format: "columns", customer: "2-6", quantity: "21-24", constantSKU: "CD"}, 1},
		{"a long line", " 00004 0001 19970101  2   29.33\r\n 00021 0003 19970118  1   11.77" + strings.Repeat(" ", 100_000) + "\n", replay{format: "columns", customer: "1", quantity: "4", constantSKU: "CD"}, 1},
		{"csv with names", "who,what,n\n00004,CD,2\n00021,CD,1\n", replay{format: "csv", header: true, customer: "who", sku: "what", quantity: "n"}, 2},
		{"csv by numbers", "00004;CD;2\n00021;CD;1\n", replay{format: "csv", separator: ";", customer: "1", sku: "2", quantity: "3"}, 1},
	} {
		if c.r.separator == "" {
			c.r.separator = ","
		}
		got, err := c.r.parse([]byte(c.log))
		for i := range got {
			got[i].line -= c.first - 1
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

// TestABadLineStopsBeforeAnythingIsPlaced names the line and the column.
func TestABadLineStopsBeforeAnythingIsPlaced(t *testing.T) {
	r := replay{file: "log", format: "csv", separator: ",", customer: "1", quantity: "2", constantSKU: "CD"}
	for _, c := range []struct{ log, want string }{
		{"a,1\nb,two\n", `log line 2: quantity: "two" is no whole number`},
		{"a,1\nb\n", "wrong number of fields"},
		{"", "log has no purchases"},
	} {
		if _, err := r.parse([]byte(c.log)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.log, err, c.want)
		}
	}
	r.quantity = "7"
	if _, err := r.parse([]byte("a,1\n")); err == nil || !strings.Contains(err.Error(), "quantity: the line has no such column: 7 of 2") {
		t.Errorf("a column that is not there: %v", err)
	}
}

func TestReplayRefusesFlagsThatContradict(t *testing.T) {
	good := replay{format: "csv", separator: ",", customer: "1", quantity: "2", constantSKU: "CD", concurrency: 1, wait: "paid"}
	for _, c := range []struct {
		change func(*replay)
		want   string
	}{
		{func(r *replay) { r.format = "xml" }, "--format"},
		{func(r *replay) { r.separator = "" }, "--separator"},
		{func(r *replay) { r.customer = "" }, "--customer"},
		{func(r *replay) { r.sku = "3" }, "--sku"},
		{func(r *replay) { r.concurrency = 0 }, "--concurrency"},
		{func(r *replay) { r.perSecond = -1 }, "--rate"},
		{func(r *replay) { r.wait = "happy" }, "happy"},
	} {
		r := good
		c.change(&r)
		if _, err := r.check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want a word about %s", err, c.want)
		}
	}
	if _, err := good.check(); err != nil {
		t.Error(err)
	}
}
