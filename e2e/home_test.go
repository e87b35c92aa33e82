package e2e

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// home is a STACK_HOME for a test that is written in Go.
type home struct {
	t   testing.TB
	dir string // where its files are
	cwd string // where commands are run; "" is dir
	env []string
}

// newHome makes a home that uses the registry, and checks at the end that
// nothing of it is left.
func newHome(t testing.TB) *home {
	t.Helper()
	return newHomeIn(t, t.TempDir())
}

func newHomeIn(t testing.TB, dir string) *home {
	t.Helper()
	base := os.Getenv(envBase)
	h := &home{t: t, dir: dir}
	if err := writeConfig(h.stackHome()); err != nil {
		t.Fatal(err)
	}
	h.env = append(os.Environ(), "STACK_HOME="+h.stackHome(), "PATH="+filepath.Join(base, "bin")+":"+os.Getenv("PATH"), "COMPOSE_PROGRESS=plain")
	t.Cleanup(func() {
		if left := h.end(t.Failed(), t.Log); len(left) > 0 {
			t.Errorf("processes left behind: %v", left)
		}
	})
	return h
}

func (h *home) stackHome() string { return filepath.Join(h.dir, "home") }

// end takes all projects down and waits for the end of every process of the
// home. Those that outlast the wait are returned, and killed.
func (h *home) end(failed bool, log func(args ...any)) (left []process) {
	if failed {
		for _, args := range [][]string{{"ls", "-a"}, {"system", "logs"}} {
			out, _ := h.try(args...)
			log("stack ", strings.Join(args, " "), "\n", tail(out, 20000))
		}
	}
	projects, err := h.try("ls", "-a", "-q")
	if err != nil {
		log(err) // what is left is found below
	}
	for p := range strings.FieldsSeq(projects) {
		if out, err := h.try("-p", p, "down", "-v", "-t", "1", "--remove-orphans"); err != nil {
			log("taking ", p, " down: ", err, "\n", out)
		}
	}
	left = awaitNoProcess(h.stackHome())
	for _, p := range left {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	return left
}

// writeConfig makes a home whose docker.io is the tests' registry.
func writeConfig(stackHome string) error {
	if err := os.MkdirAll(filepath.Join(stackHome, "config"), 0o700); err != nil {
		return err
	}
	config := fmt.Sprintf("registries:\n  docker.io:\n    mirrors: [\"http://%s\"]\n", os.Getenv(envRegistry))
	return os.WriteFile(filepath.Join(stackHome, "config", "config.yaml"), []byte(config), 0o600)
}

// command is stack with arguments, to be run where commands are.
func (h *home) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(os.Getenv(envBase), "bin", "stack"), args...)
	cmd.Env, cmd.Dir = h.env, cmp.Or(h.cwd, h.dir)
	return cmd
}

func (h *home) try(args ...string) (string, error) {
	var stderr strings.Builder
	cmd := h.command(args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("stack %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

// stack runs a command that must succeed and returns its standard output.
func (h *home) stack(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// write puts a file into the home's directory.
func (h *home) write(name, content string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// processes of the home whose command line has part in it.
func (h *home) processes(part string) []process {
	var found []process
	for _, p := range processes(h.stackHome()) {
		if strings.Contains(p.command, part) {
			found = append(found, p)
		}
	}
	return found
}

// awaitProcess waits until a process with part in its command line runs that is
// not the one with pid old.
func (h *home) awaitProcess(part string, old int) process {
	h.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		for _, p := range h.processes(part) {
			if p.pid != old {
				return p
			}
		}
		time.Sleep(10 * time.Millisecond) // another's child: no event to wait for
	}
	h.t.Fatalf("no new process with %q in its command line", part)
	return process{}
}
