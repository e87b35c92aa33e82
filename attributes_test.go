package stack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// attribute is an honoured row of docs/compose.md.
type attribute struct {
	line  int
	path  string
	tests []string // the first is that of the mutation run
}

// inside is the test that sees attributes in a running container: one machine
// for all.
const inside = "TestAttributesInside"

// honoured reads the rows of docs/compose.md, which spec keeps equal to its table.
func honoured(t *testing.T) []attribute {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("docs", "compose.md"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	var rows []attribute
	for n, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) < 2 || strings.TrimSpace(cells[1]) != "honoured" {
			continue
		}
		row := attribute{line: n + 1, path: strings.Trim(cells[0], "`")}
		for _, m := range quoted.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			row.tests = append(row.tests, m[1])
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		t.Fatal("docs/compose.md has no honoured attribute")
	}
	return rows
}

// declared maps each test function of the module to the directory it is in.
func declared(t *testing.T) map[string]string {
	t.Helper()
	dirs := map[string]string{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			dirs[string(m[1])] = filepath.Dir(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// TestAttributesNameTests: every honoured attribute of docs/compose.md names the
// tests that fail without it, and they exist.
func TestAttributesNameTests(t *testing.T) {
	dirs := declared(t)
	for _, row := range honoured(t) {
		if len(row.tests) == 0 {
			t.Errorf("docs/compose.md:%d: %s is honoured, and no test is named that fails without it", row.line, row.path)
		}
		for _, test := range row.tests {
			function, sub, _ := strings.Cut(test, "/")
			golden := function != "TestGolden" || exists("planner/testdata", sub+".txtar")
			if (dirs[function] == "" || !golden) && !exists("e2e/testdata", test) {
				t.Errorf("docs/compose.md:%d: %s: there is no test %s", row.line, row.path, test)
			}
		}
	}
}

// TestDroppedAttributes is the mutation run: with each honoured attribute taken
// out of the compose files as they are loaded, its first test must fail, and
// succeed with nothing taken out. Attributes that are seen in a running container
// are taken out together once more, so that one machine has to boot: each must
// fail of its own.
func TestDroppedAttributes(t *testing.T) {
	if os.Getenv("STACK_SOAK") == "" {
		t.Skip("compiles the tests of several packages anew and boots a machine: STACK_SOAK=1 runs it")
	}
	m := &mutation{t: t, dirs: declared(t), dir: t.TempDir(), binaries: map[string]string{}}
	m.overlay()
	var seen []string
	for _, row := range honoured(t) {
		if len(row.tests) == 0 {
			continue // TestAttributesNameTests says so
		}
		t.Run(row.path, func(t *testing.T) {
			m.t = t
			if out, ok := m.run(row, ""); !ok {
				t.Fatalf("%s fails with the attribute:\n%s", row.tests[0], out)
			}
			if out, ok := m.run(row, row.path); ok {
				t.Errorf("%s succeeds without the attribute:\n%s", row.tests[0], out)
			}
		})
		m.t = t
		if slices.Contains(row.tests, inside) {
			seen = append(seen, row.path)
		}
	}
	if len(seen) > 0 && !t.Failed() {
		m.inside(seen)
	}
}

// mutation compiles tests with spec's dropAttributes in them.
type mutation struct {
	t        *testing.T
	dirs     map[string]string // of test functions
	dir      string
	file     string            // the overlay's
	binaries map[string]string // by directory
}

// Where spec hands the files to compose-go, and what it does instead.
const (
	handsOver = "ConfigFiles: slices.Clone(l.files)"
	dropping  = "ConfigFiles: dropAttributes(l.files)"
)

// overlay writes down which files the go command is to take in place of others:
// the source as it stands has no hook for this.
func (m *mutation) overlay() {
	m.t.Helper()
	source, err := filepath.Abs("spec")
	if err != nil {
		m.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(source, "load.go"))
	if err != nil {
		m.t.Fatal(err)
	}
	if n := bytes.Count(text, []byte(handsOver)); n != 1 {
		m.t.Fatalf("spec/load.go has %q %d times: say here where compose-go gets its files", handsOver, n)
	}
	mutant := filepath.Join(m.dir, "load.go")
	text = bytes.Replace(text, []byte(handsOver), []byte(dropping), 1)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(source, "load.go"):    mutant,
		filepath.Join(source, "dropped.go"): filepath.Join(source, "testdata", "dropped", "dropped.go"),
	}})
	m.file = filepath.Join(m.dir, "overlay.json")
	if err := errors.Join(err, os.WriteFile(mutant, text, 0o600), os.WriteFile(m.file, overlay, 0o600)); err != nil {
		m.t.Fatal(err)
	}
}

// binary is the compiled test of a directory.
func (m *mutation) binary(dir string) string {
	m.t.Helper()
	if m.binaries[dir] == "" {
		out := filepath.Join(m.dir, strings.ReplaceAll(dir, string(filepath.Separator), "-")+".test")
		build := exec.Command("go", "test", "-c", "-overlay", m.file, "-o", out, "./"+dir)
		if text, err := build.CombinedOutput(); err != nil {
			m.t.Fatalf("compiling the tests of %s: %v\n%s", dir, err, text)
		}
		m.binaries[dir] = out
	}
	return m.binaries[dir]
}

// run runs a row's test with attributes taken out. A test that runs one of its
// own per attribute is asked for that alone.
func (m *mutation) run(row attribute, dropped string) (out string, ok bool) {
	m.t.Helper()
	function, sub, named := strings.Cut(row.tests[0], "/")
	if !named {
		sub = row.path
	}
	out, err := m.test(m.dirs[function], "^"+function+"$/^"+regexp.QuoteMeta(sub)+"$", dropped)
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		m.t.Fatal(err)
	}
	if err == nil && !strings.Contains(out, "--- PASS: "+row.tests[0]) {
		m.t.Fatalf("%s has not run:\n%s", row.tests[0], out)
	}
	return out, err == nil
}

func (m *mutation) test(dir, pattern, dropped string) (string, error) {
	m.t.Helper()
	cmd := exec.Command(m.binary(dir), "-test.v", "-test.run", pattern)
	cmd.Dir = dir
	// e2e compiles the program itself.
	cmd.Env = append(os.Environ(), "DROP_ATTRIBUTES="+dropped, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+m.file))
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// inside boots one machine without all the attributes that are seen in one.
func (m *mutation) inside(paths []string) {
	out, _ := m.test(m.dirs[inside], "^"+inside+"$", strings.Join(paths, " "))
	if !strings.Contains(out, "--- PASS: "+inside+"/boots") {
		m.t.Fatalf("without all of its attributes a container does not run, which tells nothing:\n%s", out)
	}
	for _, path := range paths {
		if !strings.Contains(out, fmt.Sprintf("--- FAIL: %s/%s ", inside, path)) {
			m.t.Errorf("%s: %s does not miss it:\n%s", path, inside, strconv.Quote(out))
		}
	}
}
