package inventory

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what was answered into the stories")

// TestStories plays testdata/*.txt: one SKU each, a command on the left, what it led to on the right. Lines of a story:
//
//	receive 5 as NAME            a seller's command; NAME stands for its request_id, the same name for the same one
//	adjust -1 as NAME note TEXT
//	set 7 as NAME if 3
//	... as NAME made 25h ago     the request_id was made then; otherwise now (also: made 6m ahead)
//	reserve 1 for Ann            an order's command; who it is for is for the reader
//	release 1, ship 1, restock 1
//	wait 25h                     time passes
//	# ...                        a remark
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			told, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			played := playStory(t, told)
			if *update {
				if err := os.WriteFile(file, played, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			compareLines(t, file, string(told), string(played))
		})
	}
}

func compareLines(t *testing.T, file, told, played string) {
	want, got := strings.Split(told, "\n"), strings.Split(played, "\n")
	for i := range got {
		if *update || i < len(want) && want[i] == got[i] {
			continue
		}
		t.Errorf("%s:%d\n told:   %s\n played: %s", file, i+1, want[i], got[i])
	}
}

// story is one SKU, its clock, and when each named request was made.
type story struct {
	sku  State
	now  time.Time
	made map[string]time.Time
}

const column = 42 // where the answers stand

func playStory(t *testing.T, told []byte) []byte {
	s := &story{now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC), made: map[string]time.Time{}}
	var played bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(told))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), " => ")
		line = strings.TrimRight(line, " ")
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
			fmt.Fprintln(&played, line)
			continue
		case words[0] == "wait":
			s.now = s.now.Add(duration(t, n, words[1]))
			fmt.Fprintln(&played, line)
			continue
		}
		fmt.Fprintf(&played, "%-*s => %s\n", column, line, s.play(s.command(t, n, words)))
	}
	return played.Bytes()
}

func (s *story) play(c Command) string {
	after, what, err := Decide(s.sku, c)
	if err != nil {
		return "impossible: " + err.Error()
	}
	s.sku = after
	return fmt.Sprintf("%-36s %d on hand, %d reserved, %d available (version %d, stock %d)",
		say(what), after.OnHand, after.Reserved, after.Available(), after.Version, after.StockVersion)
}

func say(o Outcome) string {
	change := map[Change]string{
		Received: "received", Adjusted: "adjusted", Set: "set", Held: "held", Released: "released", Shipped: "shipped",
		Restocked: "restocked", ReserveRefused: "REFUSED", CommandRefused: "REFUSED", CommandRepeated: "again",
	}[o.Change]
	reason := map[Reason]string{
		None: "", OutOfStock: ": OUT_OF_STOCK", UnknownSKU: ": UNKNOWN_SKU", StaleVersion: ": STALE_VERSION",
		BelowReserved: ": BELOW_RESERVED", RequestTooOld: ": REQUEST_TOO_OLD",
		IdempotencyMismatch: ": IDEMPOTENCY_MISMATCH", TooMuchStock: ": TOO_MUCH_STOCK",
	}[o.Reason]
	return fmt.Sprintf("%s %d%s", change, o.Quantity, reason)
}

func (s *story) command(t *testing.T, line int, words []string) Command {
	n, err := strconv.ParseInt(strings.ReplaceAll(words[1], ",", ""), 10, 64)
	if err != nil {
		t.Fatalf("line %d: %v", line, err)
	}
	switch words[0] {
	case "reserve":
		return Reserve{n}
	case "release":
		return Release{n}
	case "ship":
		return Ship{n}
	case "restock":
		return Restock{n}
	}
	more := s.options(t, line, words[2:])
	switch words[0] {
	case "receive":
		return Receive{more.Request, n}
	case "adjust":
		return Adjust{more.Request, n, more.note}
	case "set":
		return SetQuantity{more.Request, n, more.guarded, more.version}
	}
	t.Fatalf("line %d: %q is no command", line, words[0])
	return nil
}

// options are the words after a seller's command.
type options struct {
	Request
	note    string
	guarded bool
	version int64
}

func (s *story) options(t *testing.T, line int, words []string) options {
	o := options{Request: Request{LoggedAt: s.now.UnixMilli()}}
	name, made := "", s.now
	for len(words) > 1 {
		switch words[0] {
		case "as":
			name = words[1]
		case "note":
			o.note = words[1]
		case "if":
			o.guarded = true
			o.version, _ = strconv.ParseInt(words[1], 10, 64)
		case "made":
			by := duration(t, line, words[1])
			if words[2] == "ago" {
				by = -by
			}
			made, words = s.now.Add(by), words[1:]
		default:
			t.Fatalf("line %d: %q is no option", line, words[0])
		}
		words = words[2:]
	}
	if _, known := s.made[name]; !known {
		s.made[name] = made
	}
	o.ID = requestID(s.made[name], name)
	return o
}

func duration(t *testing.T, line int, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("line %d: %v", line, err)
	}
	return d
}

// requestID is a UUIDv7 of this time; the name stands for its random part.
func requestID(made time.Time, name string) (id RequestID) {
	random := fnv.New128a()
	random.Write([]byte(name))
	random.Sum(id[:0])
	binary.BigEndian.PutUint16(id[0:], uint16(made.UnixMilli()>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(made.UnixMilli()))
	id[6], id[8] = 0x70|id[6]&0x0f, 0x80|id[8]&0x3f
	return id
}
