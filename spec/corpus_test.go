package spec

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corpusCase is one entry of the corpus's cases.json.
type corpusCase struct {
	Files               []string
	Expected            string
	ExpectedAllProfiles string `json:"expected_all_profiles"`
	Error               string
	Env                 map[string]string
}

// openCorpus finds the corpus of public compose files, which is not part of the
// project, or skips.
func openCorpus(tb testing.TB) (dir string, cases []corpusCase) {
	tb.Helper()
	dir = os.Getenv("STACK_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "corpus") // beside the repository
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if err != nil {
		tb.Skipf("no corpus of compose files at %s (STACK_CORPUS names another place): %v", dir, err)
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		tb.Fatal(err)
	}
	return dir, cases
}

func (c corpusCase) options(dir, home string) Options {
	subst := strings.NewReplacer("$CORPUS", dir, "$HOME", home)
	first := filepath.Join(dir, c.Files[0])
	o := Options{HashKey: []byte("k"), Environ: []string{"HOME=" + home, "PWD=" + filepath.Dir(first)}}
	for k, v := range c.Env {
		o.Environ = append(o.Environ, k+"="+subst.Replace(v))
	}
	for _, f := range c.Files {
		o.Files = append(o.Files, filepath.Join(dir, f))
	}
	return o
}

// TestCorpus renders every case and compares with what docker compose printed.
func TestCorpus(t *testing.T) {
	dir, cases := openCorpus(t)
	home, err := os.UserHomeDir()
	if err != nil {
		t.Skip("no home directory to resolve ~ with: ", err)
	}
	subst := strings.NewReplacer("$CORPUS", dir, "$HOME", home)
	passed := 0
	for _, c := range cases {
		ok := t.Run(strings.Join(c.Files, "+"), func(t *testing.T) {
			render := func(profiles ...string) (any, error) {
				o := c.options(dir, home)
				o.Profiles = profiles
				out, _, err := Render(context.Background(), o, RenderOptions{Format: "json"})
				if err != nil {
					return nil, err
				}
				var v any
				if err := json.Unmarshal(out, &v); err != nil {
					t.Fatal(err)
				}
				return v, nil
			}
			got, err := render()
			if c.Error != "" {
				if err == nil {
					t.Fatalf("no error; docker compose says: %s", c.Error)
				}
				return
			}
			check := func(got any, err error, file string) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				data, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				var want any
				if err := json.Unmarshal([]byte(subst.Replace(string(data))), &want); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", file, diff)
				}
			}
			check(got, err, c.Expected)
			if c.ExpectedAllProfiles != "" {
				got, err := render("*")
				check(got, err, c.ExpectedAllProfiles)
			}
		})
		if ok {
			passed++
		}
	}
	t.Logf("%d of %d cases as docker compose", passed, len(cases))
}
