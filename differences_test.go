package stack

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDifferences: every line of docs/differences.md names tests, and they exist.
func TestDifferences(t *testing.T) {
	dirs := declared(t)
	text, err := os.ReadFile(filepath.Join("docs", "differences.md"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for n, line := range bytes.Split(text, []byte("\n")) {
		cells := strings.Split(strings.Trim(string(line), "|"), " | ")
		if !bytes.HasPrefix(line, []byte("| ")) || strings.HasPrefix(cells[0], " docker compose") {
			continue
		}
		rows++
		if len(cells) != 3 {
			t.Errorf("docs/differences.md:%d: %d columns, want 3", n+1, len(cells))
			continue
		}
		tests := quoted.FindAllStringSubmatch(cells[2], -1)
		if len(tests) == 0 {
			t.Errorf("docs/differences.md:%d: no test shows this", n+1)
		}
		for _, m := range tests {
			if name := m[1]; dirs[name] == "" && !exists("e2e/testdata", name) && !exists("planner/testdata", name) {
				t.Errorf("docs/differences.md:%d: there is no test %s", n+1, name)
			}
		}
	}
	if rows == 0 {
		t.Error("docs/differences.md has no rows")
	}
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil && strings.HasSuffix(name, ".txtar")
}
