package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/machine/fake"
	"github.com/stackvm/stack/spec"
)

// serve answers on a socket until the test ends, and returns a client.
func (w *world) serve() *api.Client {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "sup") // short: a socket's path has 108 bytes
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	token, err := api.MakeToken(filepath.Join(dir, "token"))
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		w.t.Fatal(err)
	}
	s, served := w.s, make(chan error, 1)
	go func() { served <- s.Serve(l, token) }()
	w.t.Cleanup(func() {
		w.close()
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := api.Dial(ctx, filepath.Join(dir, "s"), filepath.Join(dir, "token"))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// talk sends stdin to an attached stream and returns what came back.
func talk(t *testing.T, c net.Conn, stdin string) (out, errs string, exit wire.ExitStatus) {
	t.Helper()
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if stdin != "" {
		if err := wire.WriteFrame(c, wire.FrameStdin, []byte(stdin)); err != nil {
			t.Fatal(err)
		}
	}
	_ = wire.WriteFrame(c, wire.FrameStdinEOF, nil) // it may have ended already
	var buf []byte
	for {
		kind, b, err := wire.ReadFrame(c, &buf)
		if err != nil {
			t.Fatalf("the stream ended with %v after %q", err, out)
		}
		switch kind {
		case wire.FrameStdout:
			out += string(b)
		case wire.FrameStderr:
			errs += string(b)
		case wire.FrameExit:
			if err := json.Unmarshal(b, &exit); err != nil {
				t.Fatal(err)
			}
			return out, errs, exit
		}
	}
}

func TestExecOverTheSocket(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	p := project("shop", service("web", "server"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, err := range c.Apply(ctx, api.Apply{Command: api.Up, Name: "shop", Project: p}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	sel := api.Select{Project: "shop", Services: []string{"web"}}
	conn, err := c.Exec(ctx, api.Exec{Select: sel, Exec: wire.Exec{Args: []string{"sh", "-c", "cat; exit 4"}, Stdin: true}})
	if err != nil {
		t.Fatal(err)
	}
	if out, _, exit := talk(t, conn, "hello"); out != "hello" || exit.Code != 4 {
		t.Errorf("exec printed %q and exited with %d", out, exit.Code)
	}
	for command, code := range map[string]int{"no-such-command": 127, "not-executable": 126} {
		_, err := c.Exec(ctx, api.Exec{Select: sel, Exec: wire.Exec{Args: []string{command}}})
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.CodeCommand || e.ExitCode != code {
			t.Errorf("%s: %v", command, err)
		}
	}
	_, err = c.Exec(ctx, api.Exec{Select: api.Select{Project: "shop", Services: []string{"db"}}, Exec: wire.Exec{Args: []string{"true"}}})
	if err == nil || err.Error() != `service "db" is not running` {
		t.Errorf("error %v", err)
	}
	if tops, err := c.Top(ctx, sel); err != nil || len(tops) != 1 || tops[0].Replica.Name != "shop-web-1" {
		t.Errorf("top: %v, %v", tops, err)
	}
	if stats, err := c.Stats(ctx, sel); err != nil || len(stats) != 1 || stats[0].PIDs == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	replicas, err := c.Replicas(ctx, api.Select{Project: "shop"})
	if err != nil || len(replicas) != 1 || replicas[0].Status != planner.StatusRunning {
		t.Errorf("replicas: %v, %v", replicas, err)
	}
	killed, err := c.Kill(ctx, api.Kill{Select: sel})
	if err != nil || len(killed) != 1 {
		t.Errorf("kill: %v, %v", killed, err)
	}
	recorded, err := w.s.opt.State.Replica(w.rec("shop-web-1").ID)
	if err != nil || recorded.Status != planner.StatusExited || recorded.ExitCode != 137 {
		t.Errorf("after kill it is %+v, %v", recorded, err)
	}
}

// A supervisor that cannot start says why, instead of leaving clients waiting.
func TestRefuse(t *testing.T) {
	dir := t.TempDir()
	token, err := api.MakeToken(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Refuse(l, token, errors.New("config.yaml:3: no such setting")) }()
	_, err = api.Dial(t.Context(), socket, filepath.Join(dir, "token"))
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeRefused || e.Message != "the supervisor cannot start: config.yaml:3: no such setting" {
		t.Errorf("error %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnotherTokenIsRefused(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	dir := t.TempDir()
	if _, err := api.MakeToken(filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	_, err := api.Dial(t.Context(), c.Socket(), filepath.Join(dir, "token"))
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeAuth {
		t.Errorf("error %v", err)
	}
}

// A one-off of a service that runs, and has a volume, gets its container in the
// running machine; it leaves nothing when it has ended.
func TestRunSharesTheMachineOfAVolume(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("volume=%v", shared), func(t *testing.T) {
			w := newWorld(t)
			c := w.serve()
			p := project("shop", service("db", "server"))
			if shared {
				p.Services["db"].Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data"}}
			}
			w.up(p)
			_, set, err := p.OneOff("db", spec.OneOff{Command: []string{"sh", "-c", "echo one-off; exit 3"}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var ref *api.ReplicaRef
			for e, err := range c.Run(ctx, api.Run{Project: p, Service: "db", Set: set, AutoRemove: true}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Kind == api.EventCreated {
					ref = e.Replica
				}
			}
			r, err := w.s.find(ref.ID)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := c.Attach(ctx, api.Attach{Select: api.Select{Replica: ref.ID}, Start: true})
			if err != nil {
				t.Fatal(err)
			}
			if shared == (len(w.driver.Guests()) != 1) {
				t.Errorf("%d machines run", len(w.driver.Guests()))
			}
			out, _, exit := talk(t, conn, "")
			if out != "one-off\n" || exit.Code != 3 {
				t.Errorf("it printed %q and exited with %d", out, exit.Code)
			}
			if err := w.s.await(ctx, r, func() (bool, error) { return r.gone, nil }); err != nil {
				t.Fatal(err)
			}
			if !running(w.rec("shop-db-1")) || len(w.driver.Guests()) != 1 {
				t.Error("the service was disturbed")
			}
			if disks := w.guest("shop-db-1").Disks(); len(disks) != map[bool]int{false: 2, true: 3}[shared] {
				t.Errorf("its machine has disks %v", disks)
			}
			w.down(p, true)
			w.nothingLeft()
		})
	}
}

// numbers prints numbered lines until it is stopped.
func numbers(ctx context.Context, p *fake.Process) int {
	for i := 1; ; i++ {
		select {
		case <-p.Signals:
			return 0
		case <-ctx.Done():
			return 137
		default:
		}
		if _, err := fmt.Fprintf(p.Stdout, "%d\n", i); err != nil {
			return 1
		}
		if i%50 == 0 {
			time.Sleep(time.Millisecond) // about as fast as a busy service
		}
	}
}

// The supervisor dies at random moments while a service prints: every line is in
// the log once, in order.
func TestLogsHaveNoGapAndNoDuplicate(t *testing.T) {
	w := newWorld(t)
	w.driver.Program = func(ctx context.Context, p *fake.Process) int {
		if p.Args[0] == "numbers" {
			return numbers(ctx, p)
		}
		return fake.Shell(ctx, p)
	}
	p := project("shop", service("counter", "numbers"))
	p.Services["counter"].Logging.Options = map[string]string{"max-size": "20k", "max-file": "1000"}
	w.up(p)
	for range 10 {
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond) // any moment will do
		w.restart()
	}
	w.s.stop(t.Context(), mustFind(t, w, "shop-counter-1"), 5)
	next := 1
	err := w.s.Logs(t.Context(), api.LogQuery{Select: api.Select{Project: "shop"}, Tail: -1}, func(e api.LogEntry) error {
		if e.Mark != nil {
			return nil
		}
		if want := fmt.Sprintf("%d\n", next); e.Log != want {
			return fmt.Errorf("line %q where %q was due", e.Log, want)
		}
		next++
		return nil
	}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if next < 100 {
		t.Errorf("only %d lines", next-1)
	}
	w.down(p, true)
	w.nothingLeft()
}

// A client that follows while supervisors die hears every line once.
func TestFollowAcrossSupervisors(t *testing.T) {
	w := newWorld(t)
	w.driver.Program = func(ctx context.Context, p *fake.Process) int { return numbers(ctx, p) }
	dir, err := os.MkdirTemp("", "sup")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, tokenFile := filepath.Join(dir, "s"), filepath.Join(dir, "token")
	token, err := api.MakeToken(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	// The keeper's: connections queue while there is no supervisor.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	serve := func() {
		f, err := listener.File()
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		s := w.s
		go func() { served <- s.Serve(l.(*net.UnixListener), token) }()
	}
	serve()
	p := project("shop", service("a", "numbers"), service("b", "numbers"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := api.Dial(ctx, socket, tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	w.up(p)
	next := map[string]int{}
	reached := make(chan bool, 1)
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			for e, err := range c.Logs(ctx, api.LogQuery{Select: api.Select{Project: "shop"}, Follow: true, Hold: true, Tail: -1}) {
				if err != nil {
					return err
				}
				if e.Mark != nil {
					if next[e.Service] = -1; next["a"] == -1 && next["b"] == -1 {
						return nil
					}
					continue
				}
				next[e.Service]++
				if want := fmt.Sprintf("%d\n", next[e.Service]); e.Log != want {
					return fmt.Errorf("%s: %q where %q was due", e.Service, e.Log, want)
				}
				select {
				case reached <- true:
				default:
				}
			}
			return errors.New("the stream ended")
		}()
	}()
	for range 6 {
		select {
		case <-reached: // something new was heard since the last death
		case err := <-done:
			t.Fatal(err)
		}
		w.close()
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		w.open()
		serve()
	}
	if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.down(p, true)
	w.nothingLeft()
	cancel()
	w.close()
	<-served
}

func mustFind(t *testing.T, w *world, name string) *replica {
	t.Helper()
	r, err := w.s.find(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whoever follows sees what each run wrote, then how it ended, and the end of
// the stream when nothing runs any more.
func TestFollow(t *testing.T) {
	t.Run("kept", func(t *testing.T) { testFollow(t, "", 2) })
	// Who is attached sees what is kept nowhere.
	t.Run("not kept", func(t *testing.T) { testFollow(t, "none", 0) })
}

func testFollow(t *testing.T, driver string, kept int) {
	w := newWorld(t)
	c := w.serve()
	p := project("shop", service("job", "sh", "-c", "echo one; echo two; exit 1"), service("web", "sh", "-c", "echo up; server"))
	p.Services["job"].Logging.Driver, p.Services["web"].Logging.Driver = driver, driver
	p.Services["job"].Restart = spec.Restart{Policy: "on-failure", Max: 1}
	if _, err := w.apply(api.Apply{Command: api.Create, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got := map[string][]string{}
	stopped := false
	var stops sync.WaitGroup
	defer stops.Wait()
	since := time.Now()
	done := make(chan error, 1)
	go func() {
		for e, err := range c.Logs(ctx, api.LogQuery{Select: api.Select{Project: "shop"}, Follow: true, Hold: true, Since: since, Tail: -1}) {
			if err != nil {
				done <- err
				return
			}
			text := strings.TrimSpace(e.Log)
			if e.Mark != nil {
				text = fmt.Sprintf("exited %d %v", e.Mark.ExitCode, e.Mark.Restarting)
			}
			got[e.Service] = append(got[e.Service], text)
			if !stopped && len(got["job"]) == 6 && len(got["web"]) == 1 {
				stopped = true
				stops.Go(func() {
					_, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p})
					if err != nil {
						t.Error(err)
					}
				})
			}
			if len(got["web"]) == 2 {
				break
			}
		}
		done <- nil
	}()
	if _, err := w.apply(api.Apply{Command: api.Start, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("%v after %v", err, got)
	}
	want := map[string][]string{
		"job": {"one", "two", "exited 1 true", "one", "two", "exited 1 false"},
		"web": {"up", "exited 143 false"},
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v", got)
	}
	// Without Hold the stream ends by itself.
	n := 0
	for _, err := range c.Logs(ctx, api.LogQuery{Select: api.Select{Project: "shop"}, Follow: true, Tail: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != kept {
		t.Errorf("%d entries, want %d", n, kept)
	}
	if _, err := os.Stat(w.s.opt.State.LogPath(w.rec("shop-web-1").ID)); (err == nil) != (kept > 0) {
		t.Errorf("the log's file: %v", err)
	}
}

func TestPullFailsWithThePlaceInTheFile(t *testing.T) {
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	p.Services["web"].Image = "missing:1"
	p.Services["web"].Keys = map[string]spec.Pos{"image": {File: "compose.yaml", Line: 3}}
	_, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p})
	if err == nil || !strings.HasPrefix(err.Error(), "compose.yaml:3: ") {
		t.Errorf("error %v", err)
	}
	w.nothingLeft() // not even the network
	w.images.remote = map[string]*image.Image{"missing:1": w.images.make("missing:1", image.Config{Cmd: []string{"server"}})}
	w.up(p)
	w.down(p, true)
	w.nothingLeft()
}

// A supervisor that dies in the middle of an up leaves nothing that the next up
// does not finish and down does not remove.
func TestKilledInTheMiddleOfAnUp(t *testing.T) {
	for n := range 12 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t)
			p := project("shop", service("db", "server"), dependsOn(service("web", "server"), "db", spec.ConditionStarted))
			p.Services["db"].Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data"}, {Type: spec.MountVolume, Target: "/anon"}}
			if n%2 == 1 { // in the middle of a recreate
				w.up(p)
				p.Services["db"].Hash, p.Services["web"].Hash = "other", "other"
			}
			declare(p)
			steps, stop := 0, make(chan struct{})
			ended := make(chan struct{})
			s := w.s
			go func() {
				defer close(ended)
				s.Apply(context.Background(), api.Apply{Command: api.Up, Name: "shop", Project: p}, 1, func(e api.Event) {
					if e.Kind == api.EventStep {
						if steps++; steps == n+1 {
							close(stop)
						}
					}
				})
			}()
			select {
			case <-stop:
			case <-ended:
			}
			w.close()
			<-ended
			w.open()
			w.up(p)
			for _, name := range []string{"shop-web-1", "shop-db-1"} {
				if !running(w.rec(name)) {
					t.Errorf("%s is %s", name, w.rec(name).Status)
				}
			}
			if len(w.driver.Guests()) != 2 {
				t.Errorf("%d machines run", len(w.driver.Guests()))
			}
			w.down(p, true)
			w.nothingLeft()
		})
	}
}

// Secrets are in one file of the state, and in nothing that is sent.
func TestCanary(t *testing.T) {
	const canary = "canary-9f3b"
	w := newWorld(t)
	p := project("shop", service("web", "server"))
	svc := p.Services["web"]
	svc.Environment = map[string]string{"PASSWORD": canary}
	svc.Secrets = []spec.FileRef{{Source: "key", Target: "/run/secrets/key", Mode: 0o444}}
	p.Secrets = map[string]*spec.Config{"key": {Key: "key", Content: []byte(canary)}}
	events := w.up(p)
	text, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(canary)) {
		t.Error("an event has the secret")
	}
	past, sub := w.s.events.subscribe(time.Unix(1, 0))
	w.s.events.unsubscribe(sub)
	if text, _ := json.Marshal(past); bytes.Contains(text, []byte(canary)) {
		t.Error("an object event has the secret")
	}
	encoded, _ := json.Marshal([]byte(canary))
	var found []string
	err = filepath.WalkDir(filepath.Join(w.dir, "state"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) == ".img" {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		content, err := io.ReadAll(f)
		if bytes.Contains(content, []byte(canary)) || bytes.Contains(content, encoded) {
			found = append(found, filepath.Base(path))
			if info, _ := f.Stat(); info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found, []string{"resolved.json"}) {
		t.Errorf("the secret is in %v", found)
	}
	w.down(p, true)
	w.nothingLeft()
}
