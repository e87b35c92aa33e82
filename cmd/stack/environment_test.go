package main

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/cmd/stack/version"
)

// inProject runs a command in a directory with these files, in an environment
// of env alone, and returns what it printed.
func inProject(t *testing.T, dir string, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	t.Chdir(dir)
	var out, errOut bytes.Buffer
	a := &app{in: os.Stdin, out: &out, err: &errOut}
	root := a.root()
	a.load.Environ = append([]string{"HOME=" + dir, "PWD=" + dir}, env...)
	root.SetArgs(args)
	err = root.ExecuteContext(context.Background())
	return out.String(), errOut.String(), err
}

func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestComposeEnvironment: which files, name, profiles and values a command works
// with, by the rules of docker compose.
func TestComposeEnvironment(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	dir := writeFiles(t, map[string]string{
		"compose.yaml":          "services:\n  web: {image: \"a:${TAG-none}\"}\n  debug: {image: d, profiles: [dbg]}\n",
		"compose.override.yaml": "services:\n  web: {labels: {over: \"yes\"}}\n",
		"other.yaml":            "name: other\nservices:\n  one: {image: one}\n",
		"more.yaml":             "services:\n  two: {image: two}\n",
		".env":                  "TAG=dotenv\n",
		"a.env":                 "TAG=a\nONLY=a\n",
		"b.env":                 "TAG=b\n",
		"sub/deeper/x":          "",
		"named/compose.yml":     "services: {web: {image: \"a:${TAG-none}\"}}\n",
		"named/.env":            "COMPOSE_PROJECT_NAME=fromdotenv\nCOMPOSE_PROFILES=dbg\nTAG=named\n",
		"pointed/.env":          "COMPOSE_FILE=../other.yaml;../more.yaml\nCOMPOSE_PATH_SEPARATOR=;\n",
		"badlimit/compose.yaml": "services: {a: {image: a}}\n",
		"badlimit/.env":         "COMPOSE_PARALLEL_LIMIT=many\n",
	})
	for _, tc := range []struct {
		name string
		in   string
		env  []string
		args string
		want []string // in what is printed, in any place; "!" before: not in it
		err  string
	}{
		{"discovery upwards, override, .env", "sub/deeper", nil, "config", []string{"image: a:dotenv", `over: "yes"`, "!debug:"}, ""},
		{"the environment wins over .env", "", []string{"TAG=os"}, "config", []string{"image: a:os"}, ""},
		{"-f takes no override", "", nil, "-f compose.yaml config", []string{"image: a:dotenv", "!over:"}, ""},
		{"several -f", "", nil, "-f other.yaml -f more.yaml config --services", []string{"one", "two"}, ""},
		{"--env-file repeated: the last wins, .env is not read", "", nil, "--env-file a.env --env-file b.env config", []string{"image: a:b"}, ""},
		{"COMPOSE_ENV_FILES", "", []string{"COMPOSE_ENV_FILES=b.env,a.env"}, "config", []string{"image: a:a"}, ""},
		{"COMPOSE_DISABLE_ENV_FILE", "", []string{"COMPOSE_DISABLE_ENV_FILE=1"}, "config", []string{"image: a:none"}, ""},
		{"--profile", "", nil, "--profile dbg config --services", []string{"debug", "web"}, ""},
		{"COMPOSE_PROFILES", "", []string{"COMPOSE_PROFILES=x, dbg"}, "config --services", []string{"debug"}, ""},
		{"-p wins over COMPOSE_PROJECT_NAME", "", []string{"COMPOSE_PROJECT_NAME=env"}, "-p flag config", []string{"name: flag"}, ""},
		{"COMPOSE_PROJECT_NAME wins over name:", "", []string{"COMPOSE_PROJECT_NAME=env"}, "-f other.yaml config", []string{"name: env"}, ""},
		{"COMPOSE_ variables in .env", "named", nil, "config", []string{"name: fromdotenv", "image: a:named"}, ""},
		{"COMPOSE_FILE and its separator in .env", "pointed", nil, "config --services", []string{"one", "two"}, ""},
		{"COMPOSE_FILE", "sub", []string{"COMPOSE_FILE=../other.yaml:../more.yaml"}, "config --services", []string{"one", "two"}, ""},
		{"--project-directory", "", nil, "--project-directory named -f more.yaml config", []string{"name: fromdotenv"}, ""},
		{"COMPOSE_PARALLEL_LIMIT in .env", "badlimit", nil, "config", nil, `COMPOSE_PARALLEL_LIMIT must be an integer (found: "many")`},
		{"--parallel wins over it", "badlimit", nil, "--parallel 2 config --services", []string{"a"}, ""},
		{"--ansi", "", nil, "--ansi sometimes config", nil, `unsupported --ansi value "sometimes"`},
		{"--progress", "", nil, "--progress loud config", nil, `unsupported --progress value "loud"`},
		{"COMPOSE_PROGRESS", "", []string{"COMPOSE_PROGRESS=loud"}, "config", nil, `unsupported --progress value "loud"`},
		{"--ansi never with --progress tty", "", nil, "--ansi never --progress tty config", nil, "can't use --progress tty while ANSI support is disabled"},
		{"--ansi always with --progress plain", "", nil, "--ansi always --progress plain config", nil, "can't use --progress plain while ANSI support is forced"},
		{"--no-ansi", "", nil, "--no-ansi --ansi auto config", nil, "cannot specify DEPRECATED"},
		{"--workdir", "", nil, "--workdir named -f more.yaml config", []string{"name: fromdotenv", "option '--workdir' is DEPRECATED"}, ""},
		{"COMPOSE_IGNORE_ORPHANS", "", []string{"COMPOSE_IGNORE_ORPHANS=1"}, "--dry-run up --remove-orphans", nil, "cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans"},
		{"COMPOSE_REMOVE_ORPHANS", "", []string{"COMPOSE_IGNORE_ORPHANS=1", "COMPOSE_REMOVE_ORPHANS=true"}, "--dry-run up", nil, "cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans"},
		{"--dry-run where nothing could be shown", "", nil, "--dry-run volume create v", nil, "stack volume create has no --dry-run"},
		{"--dry-run of another create", "", nil, "--dry-run create web", []string{"Container " + filepath.Base(dir) + "-web-1 Created"}, ""},
		{"-v", "", nil, "-v", []string{"stack version"}, ""},
		{"no file", "/", nil, "config", nil, "no configuration file provided: not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := tc.in
			if !filepath.IsAbs(in) {
				in = filepath.Join(dir, in)
			}
			out, errOut, err := inProject(t, in, tc.env, strings.Fields(tc.args)...)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err, errOut)
			}
			for _, want := range tc.want {
				unwanted, not := strings.CutPrefix(want, "!")
				if not == strings.Contains(out+errOut, unwanted) {
					t.Errorf("want %s in\n%s%s", want, out, errOut)
				}
			}
		})
	}
}

// TestDryRunChangesNothing: a rehearsal says what would be done in compose's
// words, writes no file and starts no process.
func TestDryRunChangesNothing(t *testing.T) {
	home := t.TempDir()
	t.Setenv("STACK_HOME", home)
	dir := writeFiles(t, map[string]string{"compose.yaml": "name: rehearsed\nservices:\n  a: {image: app, volumes: [\"data:/v\"]}\n  b: {image: app, depends_on: [a]}\nvolumes: {data: {}}\n"})
	files := func() (out []string) {
		err := filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for args, want := range map[string][]string{
		"--dry-run up":              {"DRY-RUN MODE -  Network rehearsed_default Creating", "DRY-RUN MODE -  Volume rehearsed_data Created", "Container rehearsed-a-1 Started", "Container rehearsed-b-1 Started"},
		"up --wait --dry-run":       {"Container rehearsed-a-1 Started", "DRY-RUN MODE -  Container rehearsed-a-1 Waiting", "DRY-RUN MODE -  Container rehearsed-b-1 Healthy"},
		"up --dry-run -d b":         {"Container rehearsed-b-1 Started"},
		"--dry-run down -v":         nil,
		"--dry-run stop":            nil,
		"--dry-run restart":         nil,
		"--dry-run rm -f":           nil,
		"--dry-run kill":            nil,
		"--dry-run pause":           nil,
		"--dry-run run --name x b":  {"Container rehearsed-a-1 Started", "Container x Created"},
		"--dry-run run --rm a":      {"Container rehearsed-a-run-"},
		"--dry-run pull":            {"DRY-RUN MODE -  Image app Pulled"},
		"plan":                      nil,
		"--dry-run up --scale=b=2":  {"Container rehearsed-b-2 Started"},
		"--dry-run --parallel 1 up": {"Container rehearsed-b-1 Started"},
	} {
		_, errOut, err := inProject(t, dir, nil, strings.Fields(args)...)
		if err != nil {
			t.Errorf("%s: %v\n%s", args, err, errOut)
		}
		for _, w := range want {
			if !strings.Contains(errOut, w) {
				t.Errorf("%s: want %q in\n%s", args, w, errOut)
			}
		}
		if diff := cmp.Diff([]string(nil), files()); diff != "" {
			t.Fatalf("%s wrote files:\n%s", args, diff)
		}
	}
}

// Scripts compare the version of docker compose, under its names.
func TestVersion(t *testing.T) {
	for _, tc := range []struct {
		asCompose bool
		args      []string
		want      string
	}{
		{false, nil, "stack version " + version.Version},
		{false, []string{"--short"}, version.Version},
		{false, []string{"-f", "json"}, `{"version":"` + version.Version + `"}`},
		{true, nil, "Docker Compose version v5.5.0+stack"},
		{true, []string{"--short"}, "5.5.0"},
		{true, []string{"-f", "json"}, `{"version":"v5.5.0"}`},
	} {
		var out bytes.Buffer
		a := &app{out: &out, err: &out, asCompose: tc.asCompose}
		c := a.version()
		c.SetArgs(tc.args)
		if err := c.Execute(); err != nil || out.String() != tc.want+"\n" {
			t.Errorf("as compose %v, %q: %q, %v, want %q", tc.asCompose, tc.args, out.String(), err, tc.want)
		}
	}
}
