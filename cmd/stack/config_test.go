package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConfigFlags: what config prints for each of its flags.
func TestConfigFlags(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	dir := writeFiles(t, map[string]string{
		"compose.yaml": `
name: flags
services:
  web: {image: "nginx:${TAG:-1}", depends_on: [db], profiles: [front], env_file: w.env, volumes: ["./html:/html"]}
  db: {image: postgres, configs: [app], volumes: ["data:/data"], networks: [back]}
  mail: {image: "mail:${MAIL?no mail}", profiles: [mail]}
networks: {back: {}}
volumes: {data: {}}
configs: {app: {file: app.conf}}
models: {llm: {model: ai/some}}
`,
		"app.conf": "one",
		"w.env":    "FROM=file\n",
	})
	env := []string{"MAIL=1", "TAG=2"}
	for _, tc := range []struct{ args, want string }{
		{"--services", "db\n"},
		{"--volumes", "data\n"},
		{"--networks", "back\n"},
		{"--profiles", "front\nmail\n"},
		{"--images", "postgres\n"},
		{"--services --images", "db\n"}, // the first in docker compose's order wins
		{"-q", ""},
		{"--environment", "COMPOSE_PROJECT_NAME=flags\nHOME=" + dir + "\nMAIL=1\nPWD=" + dir + "\nTAG=2\n"},
		{"--variables --format json", `{
  "MAIL": {"Name": "MAIL", "DefaultValue": "", "PresenceValue": "", "Required": true},
  "TAG": {"Name": "TAG", "DefaultValue": "1", "PresenceValue": "", "Required": false}
}`},
	} {
		out, errOut, err := inProject(t, dir, env, append([]string{"config"}, strings.Fields(tc.args)...)...)
		if strip := strings.NewReplacer(" ", "", "\n", ""); err != nil || strip.Replace(out) != strip.Replace(tc.want) {
			t.Errorf("config %s: %v %s\n%s", tc.args, err, errOut, cmp.Diff(tc.want, out))
		}
	}
	for args, want := range map[string][]string{
		"--no-interpolate":             {"image: nginx:${TAG:-1}", "image: mail:${MAIL?no mail}"},
		"web --no-env-resolution":      {"env_file:", "image: nginx:2"},
		"web":                          {"FROM: file", "source: " + dir + "/html", "db:"},
		"web --no-path-resolution":     {"source: ./html"},
		"web --no-normalize":           {"image: nginx:2"},
		"--format json db":             {`"image": "postgres"`},
		"--all-resources --models":     nil,
		"db --no-consistency":          {"image: postgres"},
		"web --format yaml -o out.yml": nil,
	} {
		global := []string{"config"}
		fields := strings.Fields(args)
		if fields[0] == "--all-resources" {
			global, fields = []string{fields[0], "config"}, fields[1:]
		}
		out, errOut, err := inProject(t, dir, env, append(global, fields...)...)
		if err != nil {
			t.Errorf("config %s: %v %s", args, err, errOut)
		}
		if args == "--all-resources --models" && out != "ai/some\n" {
			t.Errorf("models: %q", out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("config %s: want %q in\n%s", args, w, out)
			}
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "out.yml")); err != nil || !strings.Contains(string(text), "image: nginx:2") {
		t.Errorf("-o: %v, %s", err, text)
	}

	hashes := func() string {
		out, _, err := inProject(t, dir, env, "--profile", "*", "config", "--hash", "*")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := hashes()
	if again := hashes(); again != before || strings.Count(before, "\n") != 3 {
		t.Errorf("hashes differ from call to call, or are not of three services:\n%s%s", before, again)
	}
	one, _, err := inProject(t, dir, env, "config", "--hash", "db")
	if err != nil || !strings.HasPrefix(before, one) || one == "" {
		t.Errorf("--hash db: %q, %v, of %q", one, err, before)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.conf"), []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	after := hashes()
	for i, line := range strings.Split(strings.TrimSpace(before), "\n") {
		name, _, _ := strings.Cut(line, " ")
		if changed := strings.Split(after, "\n")[i] != line; changed != (name == "db") {
			t.Errorf("after its config's content changed, the hash of db alone must: %s changed: %v", name, changed)
		}
	}
	if _, _, err := inProject(t, dir, env, "config", "--hash", "nobody"); err == nil || err.Error() != "no such service: nobody" {
		t.Errorf("--hash nobody: %v", err)
	}
	if _, _, err := inProject(t, dir, env, "config", "--format", "xml"); err == nil || err.Error() != `unsupported format "xml"` {
		t.Errorf("--format xml: %v", err)
	}
}
