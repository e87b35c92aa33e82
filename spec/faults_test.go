package spec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// faultMark stands in the lines of a broken file whose faults must be reported.
const faultMark = "@@"

// brokenFile is one case of testdata/faults.
type brokenFile struct {
	name  string
	text  string
	lines []int // of the marks
}

func newBrokenFile(name, text string) brokenFile {
	b := brokenFile{name: name, text: strings.ReplaceAll(text, faultMark, "")}
	for i, l := range strings.Split(text, "\n") {
		if strings.Contains(l, faultMark) {
			b.lines = append(b.lines, i+1)
		}
	}
	return b
}

// mutate makes the files that a list of mutations asks for.
func mutate(t *testing.T, base, mutations string) (out []brokenFile) {
	t.Helper()
	for m := range strings.Lines(mutations) {
		m = strings.TrimSuffix(m, "\n")
		old, with, ok := strings.Cut(strings.ReplaceAll(m, `\n`, "\n"), " => ")
		if !ok || !strings.Contains(base, old) {
			t.Fatalf("mutation %q changes nothing", m)
		}
		if !strings.Contains(with, faultMark) {
			same := 0 // where the new text begins
			for same < min(len(old), len(with)) && old[same] == with[same] {
				same++
			}
			with = with[:same] + faultMark + with[same:]
		}
		out = append(out, newBrokenFile(m, strings.Replace(base, old, with, 1)))
	}
	return out
}

// TestFaults loads the broken files of testdata/faults: every one gives errors,
// the same as last time, at the marked lines; a file with several marks, at all
// of them in one run. Nothing is written, and nothing panics.
func TestFaults(t *testing.T) {
	exact, total := 0, 0
	for _, name := range []string{"mutations", "byhand"} {
		file := filepath.Join("testdata", "faults", name+".txtar")
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []brokenFile
		if name == "mutations" {
			base := string(ar.Files[0].Data)
			if faults, err := loadBroken(t, base); err != nil {
				t.Fatalf("what is mutated is broken itself: %v", faults)
			}
			cases = mutate(t, base, string(ar.Files[1].Data))
		} else {
			for _, f := range ar.Files {
				if f.Name != "want" {
					cases = append(cases, newBrokenFile(f.Name, string(f.Data)))
				}
			}
		}
		var got strings.Builder
		for _, c := range cases {
			total++
			faults, err := loadBroken(t, c.text)
			if err == nil {
				t.Errorf("%s: no error", c.name)
				continue
			}
			var lines []int
			fmt.Fprintln(&got, c.name)
			for _, f := range faults {
				fmt.Fprintln(&got, "  "+strings.ReplaceAll(f.Error(), "\n", "\n  "))
				lines = append(lines, f.Pos.Line)
			}
			missed := slices.DeleteFunc(c.lines, func(l int) bool { return slices.Contains(lines, l) })
			if len(missed) == 0 {
				exact++
			} else {
				t.Logf("%s: nothing is reported at lines %v but at %v", c.name, missed, lines)
			}
		}
		golden(t, file, ar, got.String())
	}
	t.Logf("%d broken files, %d with every fault at its own line", total, exact)
	if total < 200 || exact*100 < total*95 {
		t.Errorf("%d of %d broken files have every fault at its own line, want 95 %% of at least 200", exact, total)
	}
}

// loadBroken loads one file that is alone in a directory, and returns its faults.
func loadBroken(t *testing.T, text string) ([]*Error, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := Load(context.Background(), Options{
		Dir: dir, Files: []string{path}, HashKey: []byte("k"), ProjectName: "p",
		Environ: []string{"HOME=" + dir, "PWD=" + dir, "TOKEN=t"},
	})
	var faults []*Error
	for _, e := range Errors(err) {
		var fault *Error
		if !errors.As(e, &fault) {
			t.Fatalf("%T is no *Error: %v", e, e)
		}
		plain := *fault
		plain.Err = errors.New(strings.ReplaceAll(fault.Err.Error(), dir, "$DIR"))
		faults = append(faults, &plain)
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if diff := cmp.Diff(1, len(entries)); diff != "" {
		t.Errorf("files were made beside the compose file: %v", entries)
	}
	return faults, err
}
