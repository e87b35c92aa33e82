package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killedCompose adds to the three-tier example what must not notice that a
// supervisor dies: new requests through nginx to the database, one kept-open
// connection, and a torrent of output. The requests are the cheapest that reach
// the database: two emulated cores do not carry twenty full pages a second.
const killedCompose = `
services:
  load:
    image: fixture/tool:1
    command: [tool, load, -rate, "20", -timeout, 3s, -for, "%s", "http://web/healthz"]
    networks: [front]
  echo:
    image: fixture/tool:1
    command: [tool, echo]
    networks: [front]
  sequence:
    image: fixture/tool:1
    command: [tool, sequence, -every, 100ms, "echo:7000"]
    networks: [front]
    depends_on: [echo]
  counter:
    image: fixture/tool:1
    command: [tool, count, -rate, "5000"]
`

// TestSupervisorKilled kills the supervisor -9 at random moments under load, and
// has a newer build take over from it. Nobody notices: no request fails, no
// connection breaks, no line of output is lost or doubled, no machine is touched.
func TestSupervisorKilled(t *testing.T) {
	length, kills := 45*time.Second, 4
	if os.Getenv("STACK_SOAK") != "" {
		length, kills = 120*time.Second, 11 // one of them is the upgrade
	}
	h := newHome(t)
	example := filepath.Join(os.Getenv(envBase), "examples", "three-tier")
	h.write("killed.yaml", fmt.Sprintf(killedCompose, length))
	h.write("port.yaml", "services: {web: {ports: !override [\"127.0.0.1::80\"]}}\n")
	h.env = append(h.env, "COMPOSE_FILE="+strings.Join([]string{filepath.Join(example, "compose.yaml"), "port.yaml", "killed.yaml"}, ":"), "COMPOSE_PROJECT_NAME=killed")
	h.stack("up", "-d", "--wait", "web", "echo")
	address := strings.TrimSpace(h.stack("port", "web", "80"))

	services := []string{"web", "db", "cache", "echo", "sequence", "counter"}
	h.stack("up", "-d", "--no-recreate", "sequence", "counter")
	before := h.identities(services, address)
	h.stack("up", "-d", "--no-recreate", "load") // last: no request waits for what only prepares
	began := time.Now()

	source := rand.NewPCG(uint64(began.UnixNano()), 1)
	random := rand.New(source)
	t.Logf("seed %d", began.UnixNano())
	var slowest time.Duration
	supervisor := h.awaitProcess("system supervisor", 0)
	follow := h.command("logs", "-f", "-n", "1", "--no-log-prefix", "sequence")
	var followed bytes.Buffer
	follow.Stdout, follow.Stderr = &followed, &followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = follow.Process.Kill() })
	for i := range kills {
		// Spread over the time there is, each at a random moment of its part.
		part := (length - 5*time.Second) / time.Duration(kills)
		at := began.Add(time.Duration(i)*part + time.Duration(random.Int64N(int64(part*3/4))))
		time.Sleep(time.Until(at))
		if i == kills/2 {
			supervisor = h.upgrade(supervisor)
			continue
		}
		if err := syscall.Kill(supervisor.pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		// A connection of the host, made during the outage, is answered.
		if err := ask("http://" + address + "/boot-id"); err != nil {
			t.Errorf("kill %d: a request to the published port: %v", i+1, err)
		}
		answered := time.Since(killed)
		t.Logf("killed %d at %s, answered after %v", i+1, killed.UTC().Format(time.RFC3339Nano), answered.Round(time.Millisecond))
		slowest = max(slowest, answered)
		supervisor = h.awaitProcess("system supervisor", supervisor.pid)
	}
	t.Logf("slowest answer to a connection made in an outage: %v", slowest.Round(time.Millisecond))
	if exe := h.executable(supervisor); exe != nextBuild {
		t.Errorf("a supervisor that followed the newer one is %s", exe)
	}

	// The load's own end, from its log: that it was written shows that it ended.
	var report struct {
		Requests, OK, Failures int
		Errors                 map[string]int
		P99MS                  float64 `json:"p99_ms"`
		MaxMS                  float64 `json:"max_ms"`
		MaxAt                  string  `json:"max_at"`
	}
	deadline := time.Now().Add(patience)
	for {
		line := strings.TrimSpace(h.stack("logs", "--no-log-prefix", "load"))
		if line != "" {
			if err := json.Unmarshal([]byte(line), &report); err != nil {
				t.Fatalf("the load's report %q: %v", line, err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the load did not report")
		}
		time.Sleep(time.Second) // "logs -f" would end with the supervisor it asks
	}
	t.Logf("load: %+v", report)
	if report.Failures != 0 || report.Requests < int(length.Seconds())*10 {
		t.Errorf("requests failed, or were too few: %+v", report)
	}

	if after := h.identities(services, address); !slices.Equal(before, after) {
		t.Errorf("machines changed:\nbefore %v\nafter  %v", before, after)
	}
	h.checkSequence(t)
	// Who followed all the while hears the end.
	if err := follow.Wait(); err != nil || !strings.Contains(followed.String(), `"received":`) {
		t.Errorf("logs -f across supervisors: %v: %q", err, followed.String())
	}
	h.checkCounter(t, length)
}

// upgrade has a newer build take over, by using it, and returns the supervisor
// then.
func (h *home) upgrade(old process) process {
	h.t.Helper()
	if exe := h.executable(old); exe != "stack" {
		h.t.Fatalf("the supervisor is %s before it is replaced", exe)
	}
	began := time.Now()
	next := h.command("exec", "-T", "echo", "true")
	next.Path = filepath.Join(filepath.Dir(next.Path), nextBuild)
	if out, err := next.CombinedOutput(); err != nil {
		h.t.Fatalf("a command of the newer build: %v\n%s", err, out)
	}
	h.t.Logf("replaced at %s, answered after %v", began.UTC().Format(time.RFC3339Nano), time.Since(began).Round(time.Millisecond))
	supervisor := h.awaitProcess("system supervisor", old.pid)
	keepers := h.processes("system keeper")
	if len(keepers) != 1 || h.executable(keepers[0]) != nextBuild || h.executable(supervisor) != nextBuild {
		h.t.Errorf("after the newer build came these run: %v, %v", keepers, supervisor)
	}
	return supervisor
}

// executable is the name of a process's program.
func (h *home) executable(p process) string {
	h.t.Helper()
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	return filepath.Base(path)
}

// ask makes one request by a connection of its own.
func ask(url string) error {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

// identities are the kernels of services, that of app by its own word as its
// image has no other program, and the processes of all machines but load's,
// which ends when it is done.
func (h *home) identities(services []string, address string) []string {
	h.t.Helper()
	var answer struct {
		BootIDs map[string]string `json:"boot_ids"`
	}
	body, err := fetch("http://" + address + "/api")
	if err == nil {
		err = json.Unmarshal([]byte(body), &answer)
	}
	if err != nil || answer.BootIDs["app"] == "" {
		h.t.Fatalf("asking app for its boot id: %v: %s", err, body)
	}
	ids := []string{"app " + answer.BootIDs["app"]}
	for _, s := range services {
		ids = append(ids, s+" "+strings.TrimSpace(h.stack("exec", "-T", s, "cat", "/proc/sys/kernel/random/boot_id")))
	}
	for _, p := range h.processes("qemu-system") {
		if !strings.Contains(p.command, "-load-1") {
			ids = append(ids, "machine "+strconv.Itoa(p.pid))
		}
	}
	if want := 2 * (len(services) + 1); len(ids) != want {
		h.t.Fatalf("%d kernels and machines, want %d: %v", len(ids), want, ids)
	}
	slices.Sort(ids)
	return ids
}

// checkSequence asks the kept-open connection's client how it fared.
func (h *home) checkSequence(t *testing.T) {
	t.Helper()
	h.stack("kill", "-s", "SIGTERM", "sequence")
	h.stack("logs", "-f", "sequence")
	lines := strings.Split(strings.TrimSpace(h.stack("logs", "--no-log-prefix", "sequence")), "\n")
	if connects := strings.Count(strings.Join(lines, "\n"), "connected to"); connects != 1 {
		t.Errorf("%d connections, want the first one: %q", connects, lines)
	}
	var report struct {
		Sent, Received int64
		Error          string
		MaxMS          float64 `json:"max_ms"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &report); err != nil {
		t.Fatalf("the sequence's report %q: %v", lines[len(lines)-1], err)
	}
	t.Logf("sequence: %+v", report)
	if report.Error != "" || report.Received != report.Sent || report.Received == 0 {
		t.Errorf("the kept-open connection: %+v", report)
	}
}

// checkCounter looks for gaps and doubles in the torrent of output.
func (h *home) checkCounter(t *testing.T, length time.Duration) {
	t.Helper()
	h.stack("kill", "-s", "SIGTERM", "counter")
	h.stack("logs", "-f", "-n", "1", "counter")
	cmd := h.command("logs", "--no-log-prefix", "counter")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil || n != last+1 {
			t.Errorf("after line %d comes %q", last, lines.Text())
			break
		}
		last = n
	}
	for lines.Scan() { // so that the command can end
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("counter: %d lines", last)
	if last < int64(length.Seconds())*2000 {
		t.Errorf("only %d lines were printed", last)
	}
}
