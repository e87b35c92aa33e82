package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/spec"
)

// corpusCase is one entry of the corpus's cases.json. The corpus is a folder of
// public compose files with what docker compose says of them; it is not part of
// the project.
type corpusCase struct {
	Files               []string // relative to the corpus
	Expected            string   // a file: what config --format json prints
	ExpectedAllProfiles string   `json:"expected_all_profiles"` // with --profile "*", where it differs
	Error               string   // instead of Expected: docker compose refuses it
	Env                 map[string]string
}

func (c corpusCase) name() string { return strings.Join(c.Files, "+") }

// corpus runs commands on the corpus's cases.
type corpus struct {
	dir, home string
	cases     []corpusCase
	subst     *strings.Replacer // of what stands for these directories
}

// openCorpus finds the corpus, or skips.
func openCorpus(t *testing.T) *corpus {
	t.Helper()
	dir := os.Getenv("STACK_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "corpus") // beside the repository
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if err != nil {
		t.Skipf("no corpus of compose files at %s (STACK_CORPUS names another place): %v", dir, err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Skip("no home directory to resolve ~ with: ", err)
	}
	c := &corpus{dir: dir, home: home, subst: strings.NewReplacer("$CORPUS", dir, "$HOME", home)}
	if err := json.Unmarshal(data, &c.cases); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STACK_HOME", t.TempDir())
	return c
}

// stack runs a command on a case's files, as a user would who stands beside the
// first, in an environment that is otherwise empty.
func (c *corpus) stack(t *testing.T, of corpusCase, args ...string) (stdout []byte, err error) {
	t.Helper()
	beside := filepath.Dir(filepath.Join(c.dir, of.Files[0]))
	t.Chdir(beside)
	var out, warnings bytes.Buffer
	a := &app{in: os.Stdin, out: &out, err: &warnings}
	root := a.root()
	a.load.Environ = []string{"HOME=" + c.home, "PWD=" + beside}
	for k, v := range of.Env {
		a.load.Environ = append(a.load.Environ, k+"="+c.subst.Replace(v))
	}
	var globals []string
	for _, f := range of.Files {
		globals = append(globals, "-f", filepath.Join(c.dir, f))
	}
	root.SetArgs(append(globals, args...))
	err = root.ExecuteContext(context.Background())
	return out.Bytes(), err
}

// TestCorpusConfig: what the command prints is what docker compose prints, and
// what docker compose refuses is refused.
func TestCorpusConfig(t *testing.T) {
	c := openCorpus(t)
	same := func(t *testing.T, of corpusCase, file string, args ...string) {
		t.Helper()
		out, err := c.stack(t, of, append(args, "config", "--format", "json")...)
		if err != nil {
			t.Fatal(err)
		}
		wanted, err := os.ReadFile(filepath.Join(c.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.subst.Replace(string(wanted))), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	passed := 0
	for _, of := range c.cases {
		if t.Run(of.name(), func(t *testing.T) {
			if of.Error != "" {
				if out, err := c.stack(t, of, "config", "--format", "json"); err == nil {
					t.Errorf("no error, and %d bytes; docker compose says: %s", len(out), of.Error)
				}
				return
			}
			same(t, of, of.Expected)
			if of.ExpectedAllProfiles != "" {
				same(t, of, of.ExpectedAllProfiles, "--profile", "*")
			}
		}) {
			passed++
		}
	}
	t.Logf("%d of %d cases as docker compose", passed, len(c.cases))
}

// refusals are the reasons for which a plan may be refused, with what the
// messages say. Everything else that loads must have a plan.
var refusals = []struct {
	reason  string
	message *regexp.Regexp
}{
	{"builds", regexp.MustCompile(`building is not supported yet`)},
	{"docker.sock", regexp.MustCompile(`mounting /(var/)?run/docker\.sock|no docker engine to talk to`)},
	{"models", regexp.MustCompile(`there is no model runner`)},
	{"GPUs", regexp.MustCompile(`GPUs are not passed`)},
	{"host devices", regexp.MustCompile(`device "/dev/(dri|kvm)": not supported`)},
	{"provider binaries that are not there", regexp.MustCompile(`there is no docker CLI plugin and no program`)},
	// What docker compose up refuses as well.
	{"no such external network or volume", regexp.MustCompile(`declared as external, but could not be found|^.*external volume ".*" not found`)},
	{"no such secret file", regexp.MustCompile(`secret ".*": stat .*: no such file or directory`)},
	{"a name of nothing (a variable is not set)", regexp.MustCompile(`image ".*[:/]": invalid reference format`)},
	{"a template to be filled in", regexp.MustCompile(`"(tailscale-|app-)?# |invalid restart policy "never"|extra_hosts: "" is no IP address`)},
}

// TestCorpusPlan plans every case that loads, with all profiles, from nothing:
// each must have a plan, or be refused for reasons that are known and no other.
func TestCorpusPlan(t *testing.T) {
	c := openCorpus(t)
	planned, loaded := 0, 0
	counts := map[string]int{} // cases by reason; a case may have several
	for _, of := range c.cases {
		if of.Error != "" {
			continue
		}
		loaded++
		t.Run(of.name(), func(t *testing.T) {
			out, err := c.stack(t, of, "--profile", "*", "plan")
			if err == nil {
				if planned++; len(out) == 0 {
					t.Error("a plan that says nothing")
				}
				return
			}
			seen := map[string]bool{}
			for _, fault := range spec.Errors(err) {
				reason := refusalOf(fault)
				if reason == "" {
					t.Errorf("refused for a reason that is none: %v", fault)
					reason = "other"
				}
				if !seen[reason] {
					seen[reason] = true
					counts[reason]++
				}
			}
		})
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, r := range refusals {
		fmt.Fprintf(w, "%s\t%d\n", r.reason, counts[r.reason])
	}
	fmt.Fprintf(w, "other\t%d\n", counts["other"])
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d cases have a plan (%.1f %%); refused, by reason:\n%s", planned, loaded, 100*float64(planned)/float64(loaded), &table)
}

// refusalOf returns the reason that a fault is for, "" if it is none of those.
func refusalOf(fault error) string {
	for _, r := range refusals {
		if r.message.MatchString(fault.Error()) {
			return r.reason
		}
	}
	return ""
}
