package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stackvm/stack/guest"
)

// patience bounds what should happen but may take long under emulation. It is
// no promise about speed.
const patience = 3 * time.Minute

// Variables by which the root half of the tests tells the unprivileged half
// where things are.
const (
	envBase     = "STACK_E2E_BASE"     // directory of all the tests' files
	envRegistry = "STACK_E2E_REGISTRY" // host:port
	envSmall    = "STACK_E2E_SMALL"    // a directory that is a small file system, or why there is none
	envCorpus   = "STACK_E2E_CORPUS"   // the folder of public compose files, or why it is not used
)

// nextBuild is a build of stack that is newer than the other.
const nextBuild = "stack-next"

// userName is the user that root runs the tests as, made when it is not there.
const userName = "stack-e2e"

func TestMain(m *testing.M) {
	if base := os.Getenv(envBase); base != "" {
		os.Exit(m.Run())
	}
	code, err := prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// prepare builds the program, serves the images, and runs this test binary
// again with what it needs, as an unprivileged user.
func prepare() (code int, err error) {
	g, err := guest.Find(os.Getenv)
	if err != nil {
		return 0, err
	}
	base, err := os.MkdirTemp("/tmp", "stack-e2e-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	if err := os.Chmod(base, 0o755); err != nil {
		return 0, err
	}
	for _, dir := range []string{"bin", "work"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil {
			return 0, err
		}
	}
	for _, name := range []string{"stack", nextBuild} { // in this order: the second is the newer
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(base, "bin", name),
			"-ldflags", "-X github.com/stackvm/stack/cmd/stack/version.Version="+name, "../cmd/stack")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	// The checkout, the guest's cache and go's own directories may be closed to
	// the other user.
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	for from, to := range map[string]string{self: "bin/e2e.test", "testdata": "testdata", "../examples": "examples", filepath.Dir(g.Kernel): "bin/guest"} {
		if err := copyTree(from, filepath.Join(base, to)); err != nil {
			return 0, err
		}
	}
	var recipes []string
	corpus := findCorpus()
	if filepath.IsAbs(corpus) {
		for _, p := range projects {
			recipes = append(recipes, p.images...)
		}
		if os.Getuid() == 0 {
			restore, failed := openPorts()
			if failed != nil {
				return 0, failed
			}
			defer func() { err = errors.Join(err, restore()) }()
		}
	}
	registry, stop, err := serveImages(recipes)
	if err != nil {
		return 0, fmt.Errorf("serving the images: %w", err)
	}
	defer stop()

	// go test's own file, which it watches for what a cached result depends on, is
	// not the other user's to write.
	args := slices.DeleteFunc(os.Args[1:], func(arg string) bool { return strings.HasPrefix(arg, "-test.testlogfile=") })
	cmd := exec.Command(filepath.Join(base, "bin", "e2e.test"), args...)
	cmd.Dir = base
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	work := filepath.Join(base, "work")
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "STACK_") && !strings.HasPrefix(kv, "STACK_SOAK=") || strings.HasPrefix(kv, "XDG_") || strings.HasPrefix(kv, "COMPOSE_")
	})
	small := filepath.Join(base, "small")
	if unmount, why := mountSmall(small); why != nil {
		small = why.Error()
	} else {
		defer func() { err = errors.Join(err, unmount()) }()
	}
	cmd.Env = append(env, envBase+"="+base, envRegistry+"="+registry, envSmall+"="+small, envCorpus+"="+corpus, "HOME="+work, "TMPDIR="+work)
	if os.Getuid() == 0 {
		uid, gid, err := unprivileged()
		if err != nil {
			return 0, err
		}
		for _, dir := range []string{work, small} {
			if !filepath.IsAbs(dir) {
				continue // why there is none
			}
			if err := os.Chown(dir, int(uid), int(gid)); err != nil {
				return 0, err
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// unprivileged returns the ids of the user that the tests run as.
func unprivileged() (uid, gid uint32, err error) {
	u, err := user.Lookup(userName)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		if out, err := exec.Command("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/sh", userName).CombinedOutput(); err != nil {
			return 0, 0, fmt.Errorf("making user %s: %w\n%s", userName, err, out)
		}
		u, err = user.Lookup(userName)
	}
	if err != nil {
		return 0, 0, err
	}
	id, err1 := strconv.ParseUint(u.Uid, 10, 32)
	group, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(id), uint32(group), errors.Join(err1, err2)
}

// copyTree copies a file, or a directory with all below it, readable by all.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		in, err := os.Open(path) // a link is copied as what it leads to
		if err != nil {
			return err
		}
		defer in.Close()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()|0o444)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

func TestScripts(t *testing.T) {
	base := os.Getenv(envBase)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join(base, "testdata"),
		WorkdirRoot:         filepath.Join(base, "work"),
		RequireExplicitExec: true,
		Setup:               setUp,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"stack":      stackCommand,
			"get":        get,
			"eventually": eventually,
			"qemus":      qemus,
			"crash":      crash,
			"terminate":  terminate,
			"faulty":     faulty,
			"listen":     listen,
			"udp":        udp,
			"reboot":     reboot,
			"archive":    makeArchive,
			"docker":     dockerEngine,
		},
	})
}

// condition knows [soak]: the long tests are wanted.
func condition(name string) (bool, error) {
	if name == "soak" {
		return os.Getenv("STACK_SOAK") != "", nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// setUp gives a script its own home, with the registry as docker.io's mirror,
// and checks at the end that the script left nothing.
func setUp(env *testscript.Env) error {
	began := time.Now()
	base := os.Getenv(envBase)
	h := &home{dir: env.WorkDir}
	if err := writeConfig(h.stackHome()); err != nil {
		return err
	}
	env.Setenv("STACK_HOME", h.stackHome())
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("EXAMPLES", filepath.Join(base, "examples"))
	env.Setenv("PATH", filepath.Join(base, "bin")+":"+os.Getenv("PATH"))
	env.Setenv("COMPOSE_PROGRESS", "plain")
	_, registryPort, _ := strings.Cut(os.Getenv(envRegistry), ":")
	env.Setenv("REGISTRY_PORT", registryPort)
	t, _ := env.T().(interface {
		Failed() bool
		Name() string
	})
	env.Defer(func() {
		h.env = env.Vars
		name, failed := "", false
		if t != nil {
			name, failed = t.Name(), t.Failed()
		}
		left := h.end(failed, func(args ...any) { fmt.Fprintln(os.Stderr, "---", name, fmt.Sprint(args...)) })
		fmt.Printf("e2e: %s %.1fs\n", name, time.Since(began).Seconds())
		if len(left) > 0 {
			env.T().Fatal("processes left behind: ", fmt.Sprint(left))
		}
	})
	return nil
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}

// process is one that belongs to a home.
type process struct {
	pid     int
	command string
}

func (p process) String() string {
	return fmt.Sprintf("%d %s", p.pid, p.command[:min(len(p.command), 120)])
}

// awaitNoProcess waits until no process of home is left, and returns those that
// outlast the wait. Each is waited for by its pidfd: no polling.
func awaitNoProcess(home string) []process {
	deadline := time.Now().Add(patience)
	for {
		left := processes(home)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		awaitExit(left[0].pid, time.Until(deadline))
	}
}

// stackCommand is the script command "stack ARGS…": the program, whose output
// the script then looks at.
func stackCommand(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("stack", args...)
	if err != nil && !neg {
		ts.Fatalf("stack %s: %v", strings.Join(args, " "), err)
	}
	if err == nil && neg {
		ts.Fatalf("stack %s succeeded", strings.Join(args, " "))
	}
}

// get is "get URL": one HTTP request from the host, whose body becomes stdout.
// "! get" wants the connection refused or the answer not 200.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: get URL")
	}
	body, err := fetch(args[0])
	switch {
	case neg && err == nil:
		ts.Fatalf("get %s succeeded: %s", args[0], body)
	case !neg && err != nil:
		ts.Fatalf("get %s: %v", args[0], err)
	}
	_, _ = io.WriteString(ts.Stdout(), body)
}

func fetch(url string) (string, error) {
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// eventually is "eventually URL": get, again and again while a server that has
// no event to wait for comes up.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: eventually URL")
	}
	deadline := time.Now().Add(patience)
	for {
		body, err := fetch(args[0])
		if err == nil {
			_, _ = io.WriteString(ts.Stdout(), body)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("get %s: %v", args[0], err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// qemus is "qemus N": exactly N machines of this home run.
func qemus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: qemus NUMBER")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var got []process
	for _, p := range processes(ts.Getenv("STACK_HOME")) {
		if strings.Contains(p.command, "qemu-system") {
			got = append(got, p)
		}
	}
	if len(got) != want {
		ts.Fatalf("%d machines run, want %d: %v", len(got), want, got)
	}
}
