package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/runtime/config"
)

// project is one of the corpus of public compose files, a folder that is not part
// of this repository. It is brought up with its own files and used as a
// newcomer would.
type project struct {
	file     string            // its compose file, in the corpus
	digest   string            // SHA-256 of that: the requests were written for these bytes
	needs    map[string]string // files that it wants beside it and that the corpus has not got
	environ  []string          // variables that it demands
	images   []string          // recipes of examples/images, beside those always made
	standIn  string            // which image is not of the software whose name it has, and what it does
	requests []request         // one for each published port, and more
	write    request           // leaves data behind
	read     request           // finds it
	killed   string            // the service whose machine is killed
	forgets  bool              // its data is in anonymous volumes only, so down ends it
}

// request is something a user asks, and a regular expression for the answer.
type request struct {
	name string
	make func(*home) (string, error)
	want string
}

var projects = []project{
	{
		file:   "frappe_frappe_docker/overrides/compose.mariadb-shared.yaml",
		digest: "29d6758dea1c69629723f87497f00417e126a2f2118fa722833ef914ca6d51d0",
		images: []string{"mariadb"},
		requests: []request{
			running("mariadb", `(?m)^utf8mb4_unicode_ci$`, "exec", "-T", "database", "mysql", "-pchangeit", "-N", "-e", "select @@collation_server"),
			running("health check", "(?m) healthy$", "ps", "--format", "{{.Name}} {{.Health}}"),
		},
		write: running("mariadb", "", "exec", "-T", "database", "mysql", "-pchangeit", "-e",
			"create database if not exists kitchen; create or replace table kitchen.soup select 'leek and potato' as name"),
		read:   running("mariadb", "leek and potato", "exec", "-T", "database", "mysql", "-pchangeit", "-e", "select * from kitchen.soup"),
		killed: "database",
	},
	{
		file:    "docker_awesome-compose/nextcloud-redis-mariadb/compose.yaml",
		digest:  "267c097503fd23734bc4c2784512737d5ea943d6577f47657eec55e4a293d053",
		images:  []string{"mariadb", "nextcloud"},
		standIn: nextcloudStandIn,
		requests: []request{
			getting("http://127.0.0.1:80/status.php", `"installed":true`),
			running("redis", "PONG", "exec", "-T", "redis", "redis-cli", "ping"),
			running("mariadb", `(?m)^READ-COMMITTED\s+ROW$`, "exec", "-T", "db", "mysql", "-unextcloud", "-pnextcloud", "-N", "-e", "select @@tx_isolation, @@binlog_format"),
		},
		write:  posting("http://127.0.0.1:80/", url.Values{"name": {"soup.txt"}, "text": {"leek and potato"}}, "kept"),
		read:   getting("http://127.0.0.1:80/", `soup.txt 15: leek and potato`),
		killed: "nc",
	},
	{
		file:    "docker_awesome-compose/postgresql-pgadmin/compose.yaml",
		digest:  "c444797ba40cc13d5583f3ac4c0e436f297eec31da05e72cddfc6c57f43ff8e2",
		images:  []string{"pgadmin"},
		standIn: "dpage/pgadmin4 is adminer of Debian on that image's port, which refuses to start without its variables",
		requests: []request{
			saying("127.0.0.1:5432", postgresHello("yourUser"), "SCRAM-SHA-256"),
			// After the server: adminer refuses for a while after thirty failures.
			posting("http://127.0.0.1:5050/", url.Values{
				"auth[driver]": {"pgsql"}, "auth[server]": {"postgres"}, "auth[username]": {"yourUser"}, "auth[password]": {"changeit"}, "auth[db]": {"postgres"},
			}, "PostgreSQL.*15|Schema: public"),
		},
		write: running("postgres", "INSERT 0 1", "exec", "-T", "postgres", "psql", "-U", "yourUser", "postgres",
			"-c", "create table if not exists soup (name text)", "-c", "insert into soup values ('leek and potato')"),
		read:    running("postgres", "leek and potato", "exec", "-T", "postgres", "psql", "-U", "yourUser", "postgres", "-c", "select * from soup"),
		killed:  "postgres",
		forgets: true,
	},
	{
		file:    "docker_awesome-compose/nextcloud-postgres/compose.yaml",
		digest:  "ca85b31a0a22ac61e52d7a618c70421783ef722fb59021ee920fdd9f7f7b5b9c",
		images:  []string{"nextcloud"},
		standIn: nextcloudStandIn,
		requests: []request{
			getting("http://127.0.0.1:80/status.php", `"installed":true`),
			running("postgres", `(?m)^oc_files$`, "exec", "-T", "db", "psql", "-U", "nextcloud", "-Atc", "select tablename from pg_tables where schemaname = 'public'"),
		},
		write:  posting("http://127.0.0.1:80/", url.Values{"name": {"soup.txt"}, "text": {"leek and potato"}}, "kept"),
		read:   getting("http://127.0.0.1:80/", `soup.txt 15: leek and potato`),
		killed: "db",
	},
	{
		file:   "docker_awesome-compose/wordpress-mysql/compose.yaml",
		digest: "1a7d44cefdb903ae9dbaa785342fbe99a7f08e5b31be99cb9145695defe3938d",
		images: []string{"mariadb", "wordpress"},
		requests: []request{
			getting("http://127.0.0.1:80/wp-login.php", "(?i)wordpress"),
			running("mysql", `(?m)^wordpress$`, "exec", "-T", "db", "mysql", "-uwordpress", "-pwordpress", "-e", "show databases"),
		},
		write: posting("http://127.0.0.1:80/wp-admin/install.php?step=2", url.Values{
			"weblog_title": {"A blog of potatoes"}, "user_name": {"cook"}, "admin_email": {"cook@example.com"}, "blog_public": {"0"},
			"admin_password": {"boil-mash-stew"}, "admin_password2": {"boil-mash-stew"}, "pw_weak": {"on"}, "Submit": {"Install"},
		}, "Success!|Already Installed"),
		read:   getting("http://127.0.0.1:80/", "<title>A blog of potatoes"),
		killed: "db",
	},
}

const nextcloudStandIn = "nextcloud is a page of our own that keeps files in the volume, their names in the database and locks in redis, as the image's environment says"

// TestProjects brings each project up, makes its requests after every way to
// stop and start it, finds its data again, and sees to it that nothing is left.
func TestProjects(t *testing.T) {
	corpus := os.Getenv(envCorpus)
	if !filepath.IsAbs(corpus) {
		t.Skip(corpus)
	}
	for _, p := range projects {
		t.Run(p.name(), func(t *testing.T) { p.test(t, corpus) })
	}
}

func (p project) name() string { return filepath.Base(filepath.Dir(p.file)) }

func (p project) test(t *testing.T, corpus string) {
	h := newHome(t)
	p.copyTo(t, h, corpus)
	h.env = append(h.env, p.environ...)
	var want struct {
		Services map[string]struct {
			Restart string
			Ports   []struct{ Published string }
		}
	}
	if err := json.Unmarshal([]byte(h.stack("config", "--format", "json")), &want); err != nil {
		t.Fatal(err)
	}
	for _, svc := range want.Services {
		for _, port := range svc.Ports {
			if number, err := strconv.Atoi(port.Published); err == nil && number < firstPort() {
				t.Skipf("this user may not publish port %d: net.ipv4.ip_unprivileged_port_start is %d", number, firstPort())
			}
		}
	}
	plan := h.stack("plan")
	for service := range want.Services {
		if !regexp.MustCompile(`create replica .*` + regexp.QuoteMeta(service)).MatchString(plan) {
			t.Errorf("the plan does not create %s:\n%s", service, plan)
		}
	}
	h.stack("up", "-d")
	if t.Failed() {
		return
	}
	check := func(after string, requests ...request) {
		t.Helper()
		began := time.Now()
		h.stack("up", "-d", "--wait") // which starts nothing, but knows when all is ready
		p.checkRunning(t, h, after)
		for _, r := range requests {
			h.eventually(after, r)
		}
		t.Logf("after %s: %.1f s until every request was answered", after, time.Since(began).Seconds())
	}
	check("up", append(slices.Clone(p.requests), p.write, p.read)...)
	requests := append(slices.Clone(p.requests), p.read)
	h.stack("restart")
	check("restart", requests...)
	h.stack("stop")
	h.stack("start")
	check("stop and start", requests...)
	h.killMachine(p.killed, want.Services[p.killed].Restart)
	check("the end of a machine", requests...)
	h.stack("down")
	if left := h.processes("qemu-system"); len(left) > 0 {
		t.Errorf("machines are left after down: %v", left)
	}
	h.stack("up", "-d")
	if p.forgets {
		requests[len(requests)-1] = p.write
	}
	check("down and up", requests...)
	if plan := h.stack("plan"); plan != "nothing to do\n" {
		t.Errorf("the plan of what runs is not empty:\n%s", plan)
	}
	h.stack("down", "-v")
	h.checkNothingLeft(t)
}

// copyTo makes a directory with the project's files, named as it is in the corpus.
func (p project) copyTo(t *testing.T, h *home, corpus string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(corpus, p.file))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != p.digest {
		t.Fatalf("%s has digest %s, the test was written for %s", p.file, got, p.digest)
	}
	t.Logf("%s sha256:%s", p.file, p.digest)
	if p.standIn != "" {
		t.Log("stand-in: ", p.standIn)
	}
	h.cwd = filepath.Join(h.dir, p.name())
	if err := copyTree(filepath.Dir(filepath.Join(corpus, p.file)), h.cwd); err != nil {
		t.Fatal(err)
	}
	for name, content := range p.needs {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(h.cwd, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		h.write(filepath.Join(p.name(), name), content)
	}
	if base := filepath.Base(p.file); base != "compose.yaml" {
		h.env = append(h.env, "COMPOSE_FILE="+base)
	}
}

// checkRunning: every service has a replica that runs, and is healthy where it is probed.
func (p project) checkRunning(t *testing.T, h *home, after string) {
	t.Helper()
	ready := map[string]bool{}
	for line := range strings.Lines(h.stack("ps", "-a", "--format", "json")) {
		var row struct{ Service, State, Health, Status string }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		ready[row.Service] = row.State == "running" && (row.Health == "" || row.Health == "healthy")
		if !ready[row.Service] {
			t.Errorf("after %s: %s is %s", after, row.Service, row.Status)
		}
	}
	services := strings.Fields(h.stack("config", "--services"))
	slices.Sort(services)
	var have []string
	for service := range ready {
		have = append(have, service)
	}
	slices.Sort(have)
	if diff := cmp.Diff(services, have); diff != "" {
		t.Errorf("after %s: services that ought to be there (-), and are (+):\n%s", after, diff)
	}
}

// killMachine kills the machine of a service's first replica. One that is to be
// restarts by itself.
func (h *home) killMachine(service, restart string) {
	h.t.Helper()
	name := strings.TrimSpace(h.stack("ps", "--format", "{{.Name}}", service))
	machines := h.processes("guest=" + name + " ")
	if len(machines) != 1 {
		h.t.Fatalf("machines of %s: %v", name, machines)
	}
	if err := syscall.Kill(machines[0].pid, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	awaitExit(machines[0].pid, patience)
	if restart != "" && restart != "no" {
		h.awaitProcess("guest="+name+" ", machines[0].pid)
	}
}

// eventually makes a request until it is answered as wanted: a service that runs
// need not be ready, and most cannot say when they are.
func (h *home) eventually(after string, r request) {
	h.t.Helper()
	want := regexp.MustCompile(r.want)
	deadline := time.Now().Add(2 * patience)
	for {
		answer, err := r.make(h)
		if err == nil && want.MatchString(answer) {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("after %s: %s: %v, want an answer like %q:\n%s", after, r.name, err, r.want, tail(answer, 2000))
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// checkNothingLeft: no process, socket or disk after down -v.
func (h *home) checkNothingLeft(t *testing.T) {
	t.Helper()
	if left := awaitNoProcess(h.stackHome()); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	root := h.stackHome()
	sockets, err := config.RuntimeDir(config.Dirs{Config: filepath.Join(root, "config"), Data: filepath.Join(root, "data"), State: filepath.Join(root, "state")})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{sockets, root} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			disk := err == nil && (strings.HasPrefix(rel, "data/volumes/") || strings.HasPrefix(rel, "state/machines/") || strings.HasPrefix(rel, "state/replicas/"))
			if d.Type()&fs.ModeSocket != 0 || disk {
				t.Errorf("left: %s", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// firstPort is the lowest port that this user may publish.
func firstPort() int {
	text, err := os.ReadFile(portSetting)
	number, err2 := strconv.Atoi(strings.TrimSpace(string(text)))
	if errors.Join(err, err2) != nil {
		return 1024
	}
	return number
}

const portSetting = "/proc/sys/net/ipv4/ip_unprivileged_port_start"

// openPorts lets users publish the ports from 80 on, as the hint of stack up
// tells them to, until restore.
func openPorts() (restore func() error, err error) {
	if firstPort() <= 80 {
		return func() error { return nil }, nil
	}
	old, err := os.ReadFile(portSetting)
	if err != nil {
		return nil, err
	}
	return func() error { return os.WriteFile(portSetting, old, 0o644) }, os.WriteFile(portSetting, []byte("80"), 0o644)
}

// findCorpus returns the folder of public compose files, or why it is not used.
func findCorpus() string {
	if os.Getenv("STACK_SOAK") == "" {
		return "the projects are brought up by make soak"
	}
	dir := os.Getenv("STACK_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "corpus") // beside the repository
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "cases.json"))
	}
	if err != nil {
		return fmt.Sprintf("no corpus of compose files (STACK_CORPUS names another place): %v", err)
	}
	return dir
}

// getting is a request by HTTP.
func getting(url, want string) request {
	return request{"GET " + url, func(*home) (string, error) { return fetch(url) }, want}
}

// posting is a form sent by HTTP.
func posting(to string, form url.Values, want string) request {
	return request{"POST " + to, func(*home) (string, error) {
		jar, err := cookiejar.New(nil) // a form may answer with a redirection and a session
		if err != nil {
			return "", err
		}
		client := http.Client{Timeout: 2 * time.Minute, Jar: jar}
		resp, err := client.PostForm(to, form)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}, want}
}

// running is a command of stack.
func running(name, want string, args ...string) request {
	return request{name, func(h *home) (string, error) { return h.try(args...) }, want}
}

// saying sends bytes to a published port and reads until the answer is as wanted.
func saying(addr, say, want string) request {
	return request{"to " + addr, func(*home) (string, error) {
		conn, err := net.DialTimeout("tcp", addr, time.Minute)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return "", err
		}
		if _, err := io.WriteString(conn, say); err != nil {
			return "", err
		}
		var answer []byte
		part := make([]byte, 4096)
		for {
			n, err := conn.Read(part)
			answer = append(answer, part[:n]...)
			if err != nil || regexp.MustCompile(want).Match(answer) {
				return string(answer), err
			}
		}
	}, want}
}

// postgresHello is the first message of a client of PostgreSQL (protocol 3.0, message
// StartupMessage); a server that wants a password says how.
func postgresHello(user string) string {
	body := "\x00\x03\x00\x00user\x00" + user + "\x00\x00"
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))) + body
}
