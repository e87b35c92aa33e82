package spec

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/rogpeppe/go-internal/txtar"
)

// seeds are the compose files of the other tests.
func seeds(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, a := range ar.Files {
			if strings.HasSuffix(a.Name, ".yaml") {
				f.Add(string(a.Data))
			}
		}
	}
	for _, s := range []string{
		"a: &a [*a]\n", "services: {a: &x {<<: *x, image: y}}\n", "services: {a: {image: x, extends: a}}\n",
		"x: &a {b: 1}\nservices: {a: {<<: [*a, *a], image: x}}\n", "services: {a: {ports: [\"1-900:1-900\"], image: x}}\n",
		"include: [{path: [-, /dev/null]}]\nservices: {a: {image: x}}\n", "services: {a: {image: x, env_file: /dev/zero}}\n",
		"services: {a: {image: x, ulimits: {nproc: }, healthcheck: , networks: {b: }, deploy: {resources: {limits: }}, logging: }}\nnetworks: {b: {ipam: {config: [null]}}}\n",
		"services: {a: , b: [], c: x}\nvolumes: {v: , w: 3}\nsecrets: {s: }\n",
	} {
		f.Add(s)
	}
}

// FuzzLoad: whatever a file holds, loading it ends in a project or in errors for
// people, never in a panic; places lie within the file; a second run agrees.
func FuzzLoad(f *testing.F) {
	seeds(f)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return
		}
		load := func() (*Project, error) {
			p, warnings, err := Load(context.Background(), Options{
				Files: []string{"-"}, Stdin: strings.NewReader(text), ProjectDirectory: dir, ProjectName: "p", Dir: dir, Environ: []string{"HOME=" + dir},
			})
			for _, w := range warnings {
				checkPlace(t, text, w.Pos)
			}
			return p, err
		}
		if p, _, err := Load(context.Background(), Options{
			Files: []string{"-"}, Stdin: strings.NewReader(text), ProjectDirectory: dir, ProjectName: "p", Environ: []string{}, NamesOnly: true,
		}); (p == nil) == (err == nil) {
			t.Errorf("names only: %v, %v", p, err)
		}
		p, err := load()
		if err != nil {
			if p != nil {
				t.Error("a project beside an error")
			}
			for _, one := range Errors(err) {
				var e *Error
				if !errors.As(one, &e) || e.Err.Error() == "" {
					t.Errorf("not for people: %T %v", one, one)
					continue
				}
				checkPlace(t, text, e.Pos)
			}
			return
		}
		for _, s := range p.Services {
			for _, pos := range s.Keys {
				checkPlace(t, text, pos)
			}
		}
		again, err := load()
		if err != nil {
			t.Fatalf("a second time: %v", err)
		}
		one, _ := json.Marshal(p)
		two, _ := json.Marshal(again)
		if string(one) != string(two) {
			t.Errorf("two runs differ:\n%s\n%s", one, two)
		}
	})
}

func checkPlace(t *testing.T, text string, p Pos) {
	t.Helper()
	if n := strings.Count(text, "\n") + 2; p.File == "<stdin>" && (p.Line < 0 || p.Line > n) {
		t.Errorf("%v is outside of a file of %d lines", p, n)
	}
}

// FuzzIndex: places are found for every key without a panic and within bounds,
// aliases of aliases included.
func FuzzIndex(f *testing.F) {
	seeds(f)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		x := newIndex([]types.ConfigFile{{Filename: "-", Content: []byte(text)}}, dir, types.Mapping{}, func(string) string { return "<stdin>" }, nil)
		for path, e := range x.at {
			checkPlace(t, text, e.pos)
			if e.pos.Line == 0 {
				t.Errorf("%q has no line", path)
			}
		}
		if x.visits > maxVisits+1000 {
			t.Errorf("%d visits", x.visits)
		}
	})
}

// FuzzTmpfs: what is read stays within its types' bounds.
func FuzzTmpfs(f *testing.F) {
	for _, s := range []string{"/a", "/a:size=1m,mode=1777,uid=3,gid=4,ro,noexec", "a", "/a:mode=9", "/:size=-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseTmpfs(s)
		if err == nil && (!strings.HasPrefix(m.Target, "/") || m.SizeBytes < 0 || m.UID < 0 || m.GID < 0) {
			t.Errorf("%q gives %+v", s, m)
		}
	})
}

// FuzzPublished: a range is one.
func FuzzPublished(f *testing.F) {
	for _, s := range []string{"", "80", "80-90", "90-80", "0-3", "65536", "1-1", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, err := parsePublished(s)
		if err == nil && to != 0 && (from == 0 || to <= from) {
			t.Errorf("%q gives %d-%d", s, from, to)
		}
	})
}

// FuzzRawEnv: names have no blanks, and the values are in the file as they are.
func FuzzRawEnv(f *testing.F) {
	for _, s := range []string{"A=1\n# c\n B= x \nC\n", "=x", "A B=c", "\ufeffA=\"q\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		vars := map[string]string{}
		if err := rawEnv(strings.NewReader(s), "f", vars, func(string) (string, bool) { return "", false }); err != nil {
			return
		}
		for k, v := range vars {
			if k == "" || strings.ContainsAny(k, " \t") || !strings.Contains(s, k+"="+v) {
				t.Errorf("%q gives %q=%q", s, k, v)
			}
		}
	})
}

// TestUnfitFiles: what would never end is refused before it is read.
func TestUnfitFiles(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"include: [/dev/zero]\nservices: {a: {image: x}}\n", "<stdin>:1: /dev/zero is not a regular file"},
		{"services:\n  a:\n    image: x\n    env_file: /dev/zero\n", `<stdin>:4: service "a": env_file: /dev/zero is not a regular file`},
		{"services:\n  a:\n    image: x\n    label_file: /dev/zero\n", `<stdin>:4: service "a": label_file: /dev/zero is not a regular file`},
		{"services:\n  a:\n    image: x\n    extends: {file: /dev/zero, service: b}\n", "<stdin>:4: /dev/zero is not a regular file"},
		{"services: {a: {image: x, secrets: [s]}}\nsecrets:\n  s:\n    file: /dev/zero\n", `<stdin>:4: secret "s": /dev/zero is not a regular file`},
	} {
		_, _, err := Load(context.Background(), Options{Files: []string{"-"}, Stdin: strings.NewReader(tt.text), ProjectName: "p", Environ: []string{}})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
	if _, err := os.Stat("/dev/zero"); err != nil {
		t.Skip("no /dev/zero here: ", err)
	}
}
