// Package tidy holds the tree to its own rules: which room may import which, how long a function may be, and which
// words give away something unfinished.
package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace"

// room is a part of the tree and what it may import. Paths are below the module; "std" is the standard library.
type room struct {
	path    string   // the longest matching path wins
	ours    []string // rooms of ours that it may import, by prefix
	library []string // modules of others that it may import, by prefix; "*" is any
	never   []string // imports that are refused whatever the lists say
}

// rooms is the table of docs/ARCHITECTURE.md. Test files are free: a test may need what its subject must not.
var rooms = []room{
	{path: "schemas"},
	{path: "internal/gen", library: []string{"*"}, ours: []string{"internal/gen"}},
	{path: "topics", ours: []string{"internal/gen"}, library: []string{"github.com/twmb/franz-go", "google.golang.org/protobuf", "github.com/google/uuid"}},
	{path: "processors/inventory", never: pureNever},
	{path: "processors/order", never: pureNever},
	{path: "processors/transact", library: []string{"*"}, never: []string{"github.com/jackc", "connectrpc.com", "net/http"}},
	{path: "processors", ours: []string{"processors", "topics", "internal/gen"}, library: []string{"github.com/lovoo/goka", "github.com/IBM/sarama", "github.com/twmb/franz-go", "google.golang.org/protobuf", "github.com/google/uuid", "github.com/prometheus/client_golang"}, never: []string{"net/http", "database/sql"}},
	{path: "workers/payment", ours: []string{"workers/payment", "topics", "internal/gen"}, library: []string{"*"}, never: []string{"github.com/jackc"}},
	{path: "workers/timers", ours: []string{"workers/timers", "topics", "internal/gen"}, library: []string{"github.com/twmb/franz-go", "google.golang.org/protobuf", "github.com/prometheus/client_golang"}, never: []string{"net/http"}},
	{path: "workers/workertest", ours: []string{"topics", "internal/local"}, library: []string{"github.com/twmb/franz-go", "google.golang.org/protobuf", "github.com/prometheus/client_golang"}},
	{path: "api", ours: []string{"api", "topics", "internal/gen", "schemas"}, library: []string{"*"}, never: []string{"github.com/lovoo/goka"}},
	{path: "sinks/postgres", ours: []string{"topics", "internal/gen", "schemas", "sinks"}, library: []string{"github.com/jackc", "google.golang.org/protobuf"}},
	{path: "sinks", ours: []string{"sinks", "topics", "internal/gen"}, library: []string{"github.com/twmb/franz-go", "google.golang.org/protobuf", "github.com/prometheus/client_golang"}},
	{path: "cmd/millrace", ours: []string{""}, library: []string{"*"}},
	{path: "internal/local", ours: []string{"internal/local"}, library: []string{"*"}},
	{path: "internal/simulators", ours: []string{"internal/simulators"}, library: []string{"*"}},
	{path: "internal/audit", ours: []string{"internal/audit", "topics", "internal/gen", "processors/inventory", "processors/order", "processors"}, library: []string{"*"}},
	{path: "internal/bench", ours: []string{""}, library: []string{"*"}},
	{path: "internal/e2e", ours: []string{""}, library: []string{"*"}},
	{path: "internal/tidy"},
}

// pureNever keeps the rules pure: they decide, and nothing else.
var pureNever = []string{"time", "context", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand", "os", "io", "net", "net/http", "sync", "sync/atomic"}

// A test may hold a table, which is data.
const (
	maxFunctionLines     = 70
	maxTestFunctionLines = 160
)

// unfinished are words that mark something unfinished, and package names that say nothing. They are put together from
// halves so that this file does not find itself.
var (
	unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b|not impl` + `emented|simpl` + `ified for|for n` + `ow\b`)
	emptyNames = map[string]bool{"util": true, "utils": true, "common": true, "helpers": true, "models": true, "types": true, "misc": true}
)

type source struct {
	path string // below the root, with slashes
	text []byte
	file *ast.File
	set  *token.FileSet
}

func (s source) test() bool      { return strings.HasSuffix(s.path, "_test.go") }
func (s source) generated() bool { return strings.HasPrefix(s.path, "internal/gen/") }

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || s.generated() {
			continue
		}
		r, ok := roomOf(s.path)
		if !ok {
			t.Errorf("%s is in no room of the table", s.path)
			continue
		}
		for _, imp := range s.file.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if why := r.refuses(path); why != "" {
				t.Errorf("%s imports %s: %s", s.path, path, why)
			}
		}
	}
}

func TestFunctionsFitOnAScreen(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated() {
			continue
		}
		most := maxFunctionLines
		if s.test() {
			most = maxTestFunctionLines
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line + 1; n > most {
				t.Errorf("%s: %s has %d lines, at most %d", s.path, f.Name.Name, n, most)
			}
		}
	}
}

func TestNothingIsMarkedUnfinished(t *testing.T) {
	for _, s := range sources(t) {
		if m := unfinished.Find(s.text); m != nil && !s.generated() {
			t.Errorf("%s says %q", s.path, m)
		}
		if emptyNames[s.file.Name.Name] {
			t.Errorf("%s: package %s says nothing about what is in it", s.path, s.file.Name.Name)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	doc := map[string]bool{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		doc[dir] = doc[dir] || s.generated() || s.file.Doc != nil
	}
	for dir, ok := range doc {
		if !ok {
			t.Errorf("no file of %s has a package comment", dir)
		}
	}
}

// TestTheTableRefuses plants one import of each forbidden kind, so that the tests above are known to be able to fail.
func TestTheTableRefuses(t *testing.T) {
	for _, c := range []struct{ file, imports string }{
		{"processors/inventory/decide.go", "time"},
		{"processors/order/decide.go", "github.com/google/uuid"},
		{"processors/order/decide.go", module + "/topics"},
		{"processors/transact/engine.go", module + "/topics"},
		{"api/order.go", module + "/processors"},
		{"api/order.go", module + "/sinks"},
		{"workers/payment/payment.go", module + "/api"},
		{"workers/payment/payment.go", module + "/workers/workertest"},
		{"sinks/postgres/store.go", "github.com/twmb/franz-go/pkg/kgo"},
		{"topics/topics.go", "github.com/lovoo/goka"},
		{"internal/simulators/gateway/gateway.go", module + "/topics"},
	} {
		r, ok := roomOf(c.file)
		if !ok || r.refuses(c.imports) == "" {
			t.Errorf("%s may import %s", c.file, c.imports)
		}
	}
}

func roomOf(path string) (room, bool) {
	var best room
	for _, r := range rooms {
		if strings.HasPrefix(path, r.path+"/") && len(r.path) > len(best.path) {
			best = r
		}
	}
	return best, best.path != ""
}

func (r room) refuses(path string) string {
	if within(path, r.never) {
		return "never in " + r.path
	}
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		if within(rest, r.ours) {
			return ""
		}
		return "not one of the rooms that " + r.path + " may import"
	}
	if !strings.Contains(strings.Split(path, "/")[0], ".") {
		return ""
	}
	if within(path, r.library) || len(r.library) > 0 && r.library[0] == "*" {
		return ""
	}
	return "not one of the libraries that " + r.path + " may import"
}

func within(path string, prefixes []string) bool {
	for _, p := range prefixes {
		if p == "" || path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || strings.HasPrefix(name, ".") && path != root || name == "node_modules" || name == "bin" || name == "tools") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		s, err := read(root, path)
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found only %d Go files below %s", len(all), root)
	}
	return all
}

func read(root, path string) (source, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return source{}, err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return source{}, err
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
	return source{path: filepath.ToSlash(rel), text: text, file: file, set: set}, err
}
