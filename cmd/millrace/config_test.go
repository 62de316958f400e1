package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheDataFolderIsTheSameForAll: whoever moves `up` by MILLRACE_DATA must not have to tell the other commands.
func TestTheDataFolderIsTheSameForAll(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MILLRACE_DATA", dir)
	for _, args := range []string{"order list", "stock show", "stack env", "topics list"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &out, &errs); code == 0 || !strings.Contains(errs.String(), dir) {
			t.Errorf("%s: code %d, %q does not name %s", args, code, errs.String(), dir)
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"token", "--user", "ada", "--role", "customer"}, &out, &errs); code != 0 {
		t.Fatalf("token: code %d, %s", code, errs.String())
	}
	if keys, err := os.ReadDir(filepath.Join(dir, "keys")); err != nil || len(keys) != 2 {
		t.Errorf("the keys of the token: %v, %v", keys, err)
	}
}
