package spec

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/google/go-cmp/cmp"
)

// write makes files in a new directory: "path", "content" pairs.
func write(tb testing.TB, files ...string) string {
	tb.Helper()
	dir := tb.TempDir()
	writeIn(tb, dir, files...)
	return dir
}

func writeIn(tb testing.TB, dir string, files ...string) {
	tb.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// loadText loads one compose file.
func loadText(t *testing.T, text string, change ...func(*Options)) *Project {
	t.Helper()
	dir := write(t, "compose.yaml", text)
	o := Options{Files: []string{filepath.Join(dir, "compose.yaml")}, ProjectName: "p", Dir: dir, Environ: []string{}, HashKey: []byte("k")}
	for _, c := range change {
		c(&o)
	}
	p, _, err := Load(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLoad compares what testdata/load/*.txtar load to with the JSON in "want".
// "services" names the selected ones.
func TestLoad(t *testing.T) {
	files, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			ar, dir, o := unpack(t, file)
			for _, f := range ar.Files {
				if f.Name == "services" {
					o.Services = strings.Fields(string(f.Data))
				}
			}
			p, warnings, err := Load(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range p.Services {
				s.Keys = nil // many, and tested elsewhere
			}
			got, err := json.MarshalIndent(p, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			var back Project // it travels to the supervisor as JSON
			if err := json.Unmarshal(got, &back); err != nil {
				t.Fatal(err)
			}
			if again, _ := json.MarshalIndent(&back, "", " "); string(again) != string(got) {
				t.Errorf("read back it differs:\n%s", cmp.Diff(string(got), string(again)))
			}
			for name, s := range p.Services { // null is the image's, [] is cleared
				if b := back.Services[name]; (s.Command == nil) != (b.Command == nil) || (s.Entrypoint == nil) != (b.Entrypoint == nil) {
					t.Errorf("service %s: command %#v became %#v", name, s.Command, b.Command)
				}
			}
			out := string(got) + "\n"
			for _, w := range warnings {
				out += "warning: " + w.String() + "\n"
			}
			golden(t, file, ar, strings.ReplaceAll(out, dir, "$DIR"))
		})
	}
}

// TestDiscovery checks how files, names, profiles and variables are found.
func TestDiscovery(t *testing.T) {
	const web = "services: {web: {image: 'nginx:${TAG:-none}'}, debug: {image: x, profiles: [debug]}}\n"
	tests := []struct {
		name    string
		files   []string
		cd      string
		environ []string
		opt     Options
		want    string // name source image services
		err     string
	}{
		{
			name: "default file", files: []string{"My.Shop/compose.yaml", web}, cd: "My.Shop",
			want: "myshop directory nginx:none web",
		},
		{
			name: "first of the names", files: []string{"p/compose.yaml", web, "p/docker-compose.yml", "services: {}"}, cd: "p",
			want: "p directory nginx:none web",
		},
		{
			name: "upward", files: []string{"p/compose.yaml", web, "p/a/b/x", ""}, cd: "p/a/b",
			want: "p directory nginx:none web",
		},
		{
			name: "override", files: []string{"p/compose.yaml", web, "p/compose.override.yaml", "services: {web: {image: other}}"}, cd: "p",
			want: "p directory other web",
		},
		{
			name: "no override with -f", files: []string{"p/compose.yaml", web, "p/compose.override.yaml", "services: {web: {image: other}}"}, cd: "p",
			opt:  Options{Files: []string{"compose.yaml"}},
			want: "p directory nginx:none web",
		},
		{
			name: "COMPOSE_FILE", files: []string{"p/a.yaml", web, "p/b.yaml", "services: {web: {image: other}}"}, cd: "p",
			environ: []string{"COMPOSE_FILE=a.yaml;b.yaml", "COMPOSE_PATH_SEPARATOR=;"},
			want:    "p directory other web",
		},
		{
			name: "COMPOSE_FILE in .env", files: []string{"p/.env", "COMPOSE_FILE=sub/a.yaml\n", "p/sub/a.yaml", web, "p/sub/.env", "TAG=sub\n"}, cd: "p",
			want: "sub directory nginx:sub web",
		},
		{
			name: ".env", files: []string{"p/compose.yaml", web, "p/.env", "TAG=1.27\n"}, cd: "p",
			want: "p directory nginx:1.27 web",
		},
		{
			name: "environment wins over .env", files: []string{"p/compose.yaml", web, "p/.env", "TAG=1.27\n"}, cd: "p",
			environ: []string{"TAG=2"},
			want:    "p directory nginx:2 web",
		},
		{
			name: ".env off", files: []string{"p/compose.yaml", web, "p/.env", "TAG=1.27\n"}, cd: "p",
			environ: []string{"COMPOSE_DISABLE_ENV_FILE=1"},
			want:    "p directory nginx:none web",
		},
		{
			name: "--env-file twice", files: []string{"p/compose.yaml", web, "p/a.env", "TAG=a\nX=1\n", "p/b.env", "TAG=b${X}\n"}, cd: "p",
			opt:  Options{EnvFiles: []string{"a.env", "b.env"}},
			want: "p directory nginx:b1 web",
		},
		{
			name: "COMPOSE_ENV_FILES", files: []string{"p/compose.yaml", web, "p/a.env", "TAG=a\n"}, cd: "p",
			environ: []string{"COMPOSE_ENV_FILES=a.env"},
			want:    "p directory nginx:a web",
		},
		{
			name: "--env-file missing", files: []string{"p/compose.yaml", web}, cd: "p",
			opt: Options{EnvFiles: []string{"no.env"}},
			err: "couldn't find env file",
		},
		{
			name: "--project-directory", files: []string{"p/compose.yaml", web, "q/x", ""}, cd: "q",
			opt:  Options{ProjectDirectory: "../p"},
			want: "p directory nginx:none web",
		},
		{
			name: "-p", files: []string{"p/compose.yaml", "name: file\n" + web}, cd: "p",
			environ: []string{"COMPOSE_PROJECT_NAME=env"}, opt: Options{ProjectName: "flag"},
			want: "flag flag nginx:none web",
		},
		{
			name: "COMPOSE_PROJECT_NAME", files: []string{"p/compose.yaml", "name: file\n" + web}, cd: "p",
			environ: []string{"COMPOSE_PROJECT_NAME=env"},
			want:    "env environment nginx:none web",
		},
		{
			name: "name:", files: []string{"p/compose.yaml", "name: file-${TAG:-x}\n" + web}, cd: "p",
			want: "file-x file nginx:none web",
		},
		{
			name: "-p invalid", files: []string{"p/compose.yaml", web}, cd: "p",
			opt: Options{ProjectName: "A B"},
			err: `invalid project name "A B": must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number`,
		},
		{
			name: "directory without a letter", files: []string{"---/compose.yaml", web}, cd: "---",
			err: "project name must not be empty",
		},
		{
			name: "--profile", files: []string{"p/compose.yaml", web}, cd: "p",
			opt:  Options{Profiles: []string{"debug"}},
			want: "p directory nginx:none debug web",
		},
		{
			name: "COMPOSE_PROFILES", files: []string{"p/compose.yaml", web}, cd: "p",
			environ: []string{"COMPOSE_PROFILES=other, debug"},
			want:    "p directory nginx:none debug web",
		},
		{
			name: "a named service brings its profile", files: []string{"p/compose.yaml", web}, cd: "p",
			opt:  Options{Services: []string{"web", "debug"}},
			want: "p directory nginx:none debug web",
		},
		{
			name: "no such service", files: []string{"p/compose.yaml", web}, cd: "p",
			opt: Options{Services: []string{"wbe"}},
			err: "no such service: wbe",
		},
		{
			name: "standard input", files: []string{"p/.env", "TAG=in\n"}, cd: "p",
			opt:  Options{Files: []string{"-"}, Stdin: strings.NewReader(web)},
			want: "p directory nginx:in web",
		},
		{
			name: "nothing there", files: []string{"p/x", ""}, cd: "p",
			err: "no configuration file provided: not found",
		},
		{
			name: "-f not there", files: []string{"p/x", ""}, cd: "p",
			opt: Options{Files: []string{"no.yaml"}},
			err: "no such file or directory",
		},
		{
			name: "-f is a directory", files: []string{"p/x", ""}, cd: "p",
			opt: Options{Files: []string{"."}},
			err: "is a directory",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := write(t, tt.files...)
			t.Chdir(filepath.Join(dir, tt.cd))
			o := tt.opt
			o.Environ = append([]string{"HOME=" + dir}, tt.environ...)
			p, _, err := Load(context.Background(), o)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				if none := tt.name == "nothing there"; errors.Is(err, ErrNoFile) != none {
					t.Errorf("errors.Is(%v, ErrNoFile) = %v", err, !none)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join([]string{p.Name, string(p.NameFrom), p.Services["web"].Image, strings.Join(sortedKeys(p.Services), " ")}, " ")
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHash changes one thing at a time: what is part of a running replica must
// change the hash, and say which aspect; what is not must not.
func TestHash(t *testing.T) {
	const base = `
services:
  web:
    image: nginx
    environment: {A: "1"}
    env_file: [{path: web.env, required: false}]
    configs: [conf]
    secrets: [pw]
    ports: ["80:80"]
    volumes: ["data:/data", "./src:/src"]
    networks: [default]
    labels: {l: "1"}
    depends_on: [db]
  db: {image: postgres}
configs: {conf: {content: one}}
secrets: {pw: {environment: PW}}
volumes: {data: {}}
`
	load := func(text, env string) *Project {
		dir := write(t, "p/compose.yaml", text, "p/web.env", env)
		p, _, err := Load(context.Background(), Options{
			Files: []string{filepath.Join(dir, "p/compose.yaml")}, ProjectName: "p", Environ: []string{"PW=" + "s3cret" + env}, HashKey: []byte("k"),
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.Services["web"].Mounts { // each load has its own directory
			p.Services["web"].Mounts[i].Source = strings.TrimPrefix(p.Services["web"].Mounts[i].Source, dir)
		}
		(&converter{loading: &loading{opt: Options{HashKey: []byte("k")}}, out: p}).hash()
		return p
	}
	before := load(base, "")
	tests := []struct {
		name, old, new string
		env            string
		want           string // aspects that differ; empty: the hash must stay
	}{
		{"image", "image: nginx", "image: nginx:2", "", "image"},
		{"environment", `{A: "1"}`, `{A: "2"}`, "", "environment.A"},
		{"environment added", `{A: "1"}`, `{A: "1", B: "2"}`, "", "environment.B"},
		{"env file and secret", "", "", "C=3", "environment.C secrets.pw"},
		{"config content", "content: one", "content: two", "", "configs.conf"},
		{"ports", `"80:80"`, `"81:80"`, "", "ports"},
		{"mount", "./src:/src", "./src:/src:ro", "", "volumes./src"},
		{"volume", "data:/data", "data:/data2", "", "volumes./data volumes./data2"},
		{"network", "networks: [default]", "networks: {default: {aliases: [a]}}", "", "networks.default"},
		{"label", `labels: {l: "1"}`, `labels: {l: "2"}`, "", "labels.l"},
		{"command", "image: nginx", "image: nginx\n    command: []", "", "command"},
		{"restart", "image: nginx", "image: nginx\n    restart: always", "", "restart"},
		{"restart no", "image: nginx", "image: nginx\n    restart: \"no\"", "", ""},
		{"x-stack", "image: nginx", "image: nginx\n    x-stack: {memory: 1g}", "", "extension"},
		{"scale", "image: nginx", "image: nginx\n    scale: 3", "", ""},
		{"deploy.replicas", "image: nginx", "image: nginx\n    deploy: {replicas: 3}", "", ""},
		{"depends_on", "depends_on: [db]", "depends_on: {db: {condition: service_started, restart: true}}", "", ""},
		{"pull_policy", "image: nginx", "image: nginx\n    pull_policy: always", "", ""},
		{"profiles", "image: postgres", "image: postgres\n    profiles: []", "", ""},
		{"attach", "image: nginx", "image: nginx\n    attach: false", "", ""},
		{"build", "image: nginx", "image: nginx\n    build: .", "", ""},
		{"a comment", "image: nginx", "image: nginx # the first", "", ""},
		{"another service", "image: postgres", "image: postgres:15", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(strings.Replace(base, "db: {image: postgres}", "db:\n    image: postgres", 1), tt.old, tt.new, 1)
			after := load(text, tt.env)
			a, b := before.Services["web"], after.Services["web"]
			var differ []string
			for k := range merged(a.Aspects, b.Aspects) {
				if a.Aspects[k] != b.Aspects[k] {
					differ = append(differ, k)
				}
			}
			slices.Sort(differ)
			if got := strings.Join(differ, " "); got != tt.want {
				t.Errorf("aspects %q differ, want %q", got, tt.want)
			}
			if same := a.Hash == b.Hash; same != (tt.want == "") {
				t.Errorf("same hash: %v", same)
			}
		})
	}
}

func merged(a, b map[string]string) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// TestHashKey: without the key, equal contents cannot be told from others.
func TestHashKey(t *testing.T) {
	const text = "services: {web: {image: nginx, secrets: [pw]}}\nsecrets: {pw: {environment: PW}}\n"
	load := func(key string) *Service {
		return loadText(t, text, func(o *Options) { o.HashKey, o.Environ = []byte(key), []string{"PW=hunter2"} }).Services["web"]
	}
	a, b, c := load("a"), load("a"), load("b")
	if a.Hash != b.Hash || a.Aspects["secrets.pw"] != b.Aspects["secrets.pw"] {
		t.Error("one key gives two hashes")
	}
	for k := range a.Aspects {
		if a.Aspects[k] == c.Aspects[k] {
			t.Errorf("aspect %s is the same under two keys", k)
		}
	}
	if a.Hash == c.Hash {
		t.Error("two keys give one hash")
	}
}

// TestNoFieldUnhashed changes each field of Service and looks at the hash: a
// field that is added must be hashed, or be listed as one that need not.
func TestNoFieldUnhashed(t *testing.T) {
	d := digester("k")
	p := &Project{Configs: map[string]*Config{}, Secrets: map[string]*Config{}}
	before := d.sum(d.aspects(&Service{Restart: Restart{Policy: "no"}}, p))
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Service]()) {
		s := &Service{Restart: Restart{Policy: "no"}}
		fill(t, reflect.ValueOf(s).Elem().FieldByIndex(f.Index))
		changed := d.sum(d.aspects(s, p)) != before
		free := []string{"Name", "Pos", "Keys", "Hash", "Aspects", "Build", "PullPolicy", "Scale", "DependsOn", "Attach"}
		if changed == slices.Contains(free, f.Name) {
			t.Errorf("field %s: hash changes: %v", f.Name, changed)
		}
	}
}

// fill sets a value to something that is not zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		fill(t, e)
		v.SetMapIndex(reflect.ValueOf("x"), e)
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(7)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() && f.Type().PkgPath() != "net/netip" {
				fill(t, f)
				return
			}
		}
	default:
		t.Fatalf("a field of kind %s: teach this test", v.Kind())
	}
}

// TestRedact: no secret is left in what may be printed.
func TestRedact(t *testing.T) {
	p := loadText(t, `
services:
  web: {image: nginx, secrets: [a], configs: [b], environment: {PASSWORD: canary1}}
secrets: {a: {environment: A}}
configs: {b: {content: "password=canary3"}}
`, func(o *Options) { o.Environ = []string{"A=canary2"} })
	full, _ := json.Marshal(p)
	if !strings.Contains(string(full), "canary1") {
		t.Fatal("the project lacks what this test looks for")
	}
	out, err := json.Marshal(p.Redact())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"canary", "Y2FuYXJ5"} { // base64 too
		if strings.Contains(string(out), s) {
			t.Errorf("%s is in %s", s, out)
		}
	}
	if again, _ := json.Marshal(p); string(again) != string(full) {
		t.Error("Redact changed the project")
	}
	for name, s := range p.Redact().Services {
		if s.Hash != p.Services[name].Hash {
			t.Error("Redact changed a hash")
		}
	}
}

// TestEveryAttributeHasARule compares the specification's attributes with
// testdata/attributes.txt: one that the specification gains fails here until
// someone has decided what becomes of it (-update after editing Rules).
func TestEveryAttributeHasARule(t *testing.T) {
	const file = "testdata/attributes.txt"
	var b strings.Builder
	used := map[string]bool{}
	for _, p := range schema.AttributePaths() {
		parts := p.Parts()
		rule := RuleFor(parts...)
		if rule == nil || len(parts) == 3 && parts[0] == "services" && !knownServiceKey(parts[2]) {
			t.Errorf("%s has no rule", p)
			continue
		}
		used[rule.Path] = true
		b.WriteString(p.String() + " " + string(rule.Verdict) + "\n")
		if rule.Verdict != Honoured && rule.Reason == "" && rule.Path != "version" {
			t.Errorf("%s is %s without a reason", p, rule.Verdict)
		}
	}
	for _, r := range Rules {
		if !used[r.Path] {
			t.Errorf("rule %s is about no attribute of the specification", r.Path)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestKeys: the places of a service's keys, after a merge of everything.
func TestKeys(t *testing.T) {
	dir := write(t,
		"compose.yaml", `x-base: &base
  restart: always
  environment: {A: "1", B: "2"}
include: [inc/other.yaml]
services:
  web:
    <<: *base
    image: nginx
    ports:
      - "80:80"
      - target: 90
        published: "${P}"
    volumes: ["vol:/a"]
    extends: {file: base.yaml, service: b}
  api: {image: x, command: [a], labels: {l: v}}
volumes: {vol: {}}
`,
		"override.yaml", `services:
  web:
    ports: ["81:81"]
    environment: [B=3]
  api:
    command: !reset null
    labels: !override {m: v}
`,
		"base.yaml", "services:\n  b:\n    user: \"1\"\n    image: y\n",
		"inc/other.yaml", "services:\n  other:\n    image: z\n    user: root\n",
	)
	p, _, err := Load(context.Background(), Options{
		Files: []string{filepath.Join(dir, "compose.yaml"), filepath.Join(dir, "override.yaml")}, ProjectName: "p", Dir: dir, Environ: []string{"P=91"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"web image": "compose.yaml:8", "web restart": "compose.yaml:2", "web environment.A": "compose.yaml:3",
		"web environment.B": "override.yaml:4", "web user": "base.yaml:3", "other user": "inc/other.yaml:4",
		"api image": "compose.yaml:15", "api command": "", "api labels.l": "", "api labels.m": "override.yaml:7",
	}
	for key, pos := range want {
		service, path, _ := strings.Cut(key, " ")
		if got := p.Services[service].Keys[path].String(); got != pos {
			t.Errorf("%s is at %q, want %q", key, got, pos)
		}
	}
	var ports []string
	for _, port := range p.Services["web"].Ports {
		ports = append(ports, port.Pos.String())
	}
	if got := strings.Join(ports, " "); got != "compose.yaml:10 compose.yaml:11 override.yaml:3" {
		t.Errorf("ports at %s", got)
	}
	if got := p.Services["web"].Mounts[0].Pos.String(); got != "compose.yaml:13" {
		t.Errorf("mount at %s", got)
	}
}

// TestNamesOnly: what only needs names works with a file that up would refuse.
func TestNamesOnly(t *testing.T) {
	p := loadText(t, `
services:
  web: {image: "A:B:C", gpus: all, env_file: none.env, secrets: [s], depends_on: [db], network_mode: host, label_file: none}
  db: {image: x}
secrets: {s: {file: none}}
`, func(o *Options) { o.NamesOnly = true })
	if got := sortedKeys(p.Services); !slices.Equal(got, []string{"db", "web"}) || p.Services["web"].DependsOn["db"].Condition != ConditionStarted {
		t.Errorf("services %v", got)
	}
}

// BenchmarkLoad is what every command pays that reads the file.
func BenchmarkLoad(b *testing.B) {
	dir := write(b, "compose.yaml", `
services:
  web: {image: nginx, ports: ["8080:80"], depends_on: {app: {condition: service_healthy}}, configs: [c], networks: [front]}
  app: {image: app, healthcheck: {test: "true"}, secrets: [s], networks: [front, back], depends_on: [db, cache]}
  db: {image: postgres, volumes: ["data:/data"], secrets: [s], networks: [back]}
  cache: {image: redis, networks: [back]}
networks: {front: {}, back: {internal: true}}
volumes: {data: {}}
configs: {c: {content: x}}
secrets: {s: {environment: S}}
`)
	o := Options{Files: []string{filepath.Join(dir, "compose.yaml")}, ProjectName: "p", Environ: []string{"S=1"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Load(context.Background(), o); err != nil {
			b.Fatal(err)
		}
	}
}
