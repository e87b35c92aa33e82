package spec

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite what testdata wants")

// TestBroken runs testdata/broken/*.txtar: files that are wrong, and the errors
// they must give, each at its line, all in one run. "env" holds variables.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			ar, dir, o := unpack(t, file)
			p, _, err := Load(context.Background(), o)
			got := "no error\n"
			if err != nil {
				got = err.Error() + "\n"
				if p != nil {
					t.Error("a project beside an error")
				}
				for _, e := range Errors(err) {
					if !errors.As(e, new(*Error)) {
						t.Errorf("%T is no *Error: %v", e, e)
					}
				}
			}
			golden(t, file, ar, strings.ReplaceAll(got, dir, "$DIR"))
		})
	}
}

// unpack writes a txtar's files to a directory and returns what loads them.
func unpack(t *testing.T, file string) (*txtar.Archive, string, Options) {
	t.Helper()
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := Options{Dir: dir, Environ: []string{"HOME=" + dir, "PWD=" + dir}, ProjectName: "p", HashKey: []byte("k")}
	for _, f := range ar.Files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
		switch f.Name {
		case "env":
			o.Environ = append(o.Environ, strings.Fields(string(f.Data))...)
		case "compose.yaml", "override.yaml":
			o.Files = append(o.Files, path)
		}
	}
	return ar, dir, o
}

func golden(t *testing.T, file string, ar *txtar.Archive, got string) {
	t.Helper()
	i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == "want" })
	if *update {
		if i < 0 {
			ar.Files = append(ar.Files, txtar.File{Name: "want"})
			i = len(ar.Files) - 1
		}
		ar.Files[i].Data = []byte(got)
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := ""
	if i >= 0 {
		want = string(ar.Files[i].Data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
