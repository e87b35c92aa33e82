package fake_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/control"
	"github.com/stackvm/stack/runtime/machine/fake"
	"github.com/stackvm/stack/runtime/machine/machinetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	machinetest.Run(t, func(t *testing.T) machinetest.Subject {
		d := fake.New()
		t.Cleanup(d.Close)
		return machinetest.Subject{Driver: d}
	})
}

// running is a fake machine with an image disk and an open session.
type running struct {
	machine.Machine
	*control.Client
	guest *fake.Guest
	ctx   context.Context
}

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func start(t *testing.T, d *fake.Driver) running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	t.Cleanup(d.Close)
	c := machinetest.Subject{Driver: d}.Config(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Disks = []machine.Disk{{Serial: "image", Kind: machine.DiskImage, Extents: []machine.Extent{{Path: image, Bytes: 4096}}}}
	m, err := d.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	client, _, err := control.Open(ctx, m.Control(), c.Key, wire.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return running{m, client, d.Guest(c.Name), ctx}
}

func (r running) create(t *testing.T, args ...string) {
	t.Helper()
	c := wire.Container{ID: id, Name: "web", Root: wire.Root{Image: "image"}, Args: args, Log: true, Stdin: true}
	if err := r.Create(r.ctx, c); err != nil {
		t.Fatal(err)
	}
}

func (r running) run(t *testing.T, args ...string) {
	t.Helper()
	r.create(t, args...)
	if _, err := r.Start(r.ctx, id); err != nil {
		t.Fatal(err)
	}
}

func TestContainerLife(t *testing.T) {
	r := start(t, fake.New())
	r.create(t, "nginx")
	events := make(chan wire.Event, 100)
	ctx, cancel := context.WithCancel(r.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		r.Events(ctx, func(e wire.Event) error { events <- e; return nil })
	})
	defer wg.Wait()
	defer cancel()
	want := func(kind wire.EventKind, state wire.State) wire.Event {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != kind || e.State != state {
				t.Fatalf("event %+v, want %s %s", e, kind, state)
			}
			return e
		case <-r.ctx.Done():
			t.Fatalf("no event %s %s", kind, state)
		}
		panic("unreachable")
	}
	want(wire.EventState, wire.StateCreated)
	want(wire.EventReady, "")
	if _, err := r.Start(r.ctx, id); err != nil {
		t.Fatal(err)
	}
	want(wire.EventState, wire.StateRunning)
	if _, err := r.Start(r.ctx, id); code(err) != wire.CodeRunning {
		t.Errorf("second Start = %v, want that it runs already", err)
	}
	r.guest.SetHealth("web", wire.HealthUnhealthy, "refused")
	if e := want(wire.EventHealth, ""); e.Health != wire.HealthUnhealthy || e.Output != "refused" || e.FailingStreak != 1 {
		t.Errorf("event %+v", e)
	}
	exit, err := r.Stop(r.ctx, wire.Stop{ID: id, Grace: time.Minute})
	if err != nil || exit.Code != 143 {
		t.Errorf("Stop = %+v, %v; want 143", exit, err)
	}
	if e := want(wire.EventState, wire.StateExited); e.Exit == nil || e.Exit.Code != 143 {
		t.Errorf("event %+v, want an exit status", e)
	}
	if err := r.Remove(r.ctx, id); err != nil {
		t.Error(err)
	}
	if _, err := r.Start(r.ctx, id); code(err) != wire.CodeNotFound {
		t.Errorf("Start of a removed container = %v", err)
	}
}

func code(err error) wire.ErrorCode {
	var e *wire.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestStopKillsAfterGrace(t *testing.T) {
	r := start(t, fake.New())
	r.run(t, "ignore-term")
	if exit, err := r.Stop(r.ctx, wire.Stop{ID: id, Grace: 0}); err != nil || exit.Code != 137 {
		t.Errorf("Stop = %+v, %v; want 137", exit, err)
	}
}

func TestCreateNeedsDisks(t *testing.T) {
	r := start(t, fake.New())
	err := r.Create(r.ctx, wire.Container{ID: id, Name: "web", Args: []string{"x"}, Root: wire.Root{Image: "other"}})
	if code(err) != wire.CodeNotFound {
		t.Errorf("Create without its disk = %v, want not-found", err)
	}
}

func TestExec(t *testing.T) {
	r := start(t, fake.New())
	r.run(t, "nginx")
	for _, c := range []struct {
		args  []string
		stdin string
		out   string
		code  int
	}{
		{[]string{"echo", "hello", "there"}, "", "hello there\n", 0},
		{[]string{"sh", "-c", "echo one; exit 3"}, "", "one\n", 3},
		{[]string{"cat"}, strings.Repeat("x", 300_000), strings.Repeat("x", 300_000), 0},
	} {
		s, _, err := r.Exec(r.ctx, wire.Exec{ID: id, Args: c.args, Stdin: true})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			io.WriteString(s, c.stdin)
			s.CloseStdin()
		})
		var out bytes.Buffer
		exit, err := s.Run(&out, io.Discard)
		wg.Wait()
		s.Close()
		if err != nil || exit.Code != c.code || out.String() != c.out {
			t.Errorf("exec %q = %d, %d bytes, %v; want %d, %d bytes", c.args, exit.Code, out.Len(), err, c.code, len(c.out))
		}
	}
	if _, _, err := r.Exec(r.ctx, wire.Exec{ID: id, Args: []string{"no-such-command"}}); code(err) != wire.CodeNoCommand {
		t.Errorf("exec of a missing command = %v", err)
	}
	s, _, err := r.Exec(r.ctx, wire.Exec{ID: id, Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Signal("SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if exit, err := s.Run(io.Discard, io.Discard); err != nil || exit.Code != 143 {
		t.Errorf("signalled exec = %+v, %v", exit, err)
	}
	s.Close()
}

func TestAttach(t *testing.T) {
	r := start(t, fake.New())
	r.run(t, "cat")
	s, err := r.Attach(r.ctx, wire.Attach{ID: id, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	io.WriteString(s, "through\n")
	s.CloseStdin()
	var out bytes.Buffer
	exit, err := s.Run(&out, io.Discard)
	if err != nil || exit.Code != 0 || out.String() != "through\n" {
		t.Errorf("attached cat = %+v, %q, %v", exit, out.String(), err)
	}
}

func TestArchives(t *testing.T) {
	r := start(t, fake.New())
	r.run(t, "nginx")
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	w.WriteHeader(&tar.Header{Name: "a.txt", Mode: 0o640, Size: 5})
	io.WriteString(w, "hello")
	w.Close()
	if err := r.Put(r.ctx, wire.Archive{ID: id, Path: "/etc"}, &in); err != nil {
		t.Fatal(err)
	}
	if st, err := r.Stat(r.ctx, wire.Archive{ID: id, Path: "/etc/a.txt"}); err != nil || st.Size != 5 || st.Mode != 0o640 {
		t.Errorf("Stat = %+v, %v", st, err)
	}
	_, stream, err := r.Get(r.ctx, wire.Archive{ID: id, Path: "/etc/a.txt"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	tr := tar.NewReader(stream)
	h, err := tr.Next()
	if err != nil || h.Name != "a.txt" {
		t.Fatalf("first entry %+v, %v", h, err)
	}
	if b, err := io.ReadAll(tr); err != nil || string(b) != "hello" {
		t.Errorf("content %q, %v", b, err)
	}
	if err := r.Put(r.ctx, wire.Archive{ID: id, Path: "/"}, strings.NewReader("no tar at all, "+strings.Repeat("x", 2000))); code(err) != wire.CodeInvalid {
		t.Errorf("Put of garbage = %v", err)
	}
	if err := r.Put(r.ctx, wire.Archive{ID: id, Path: "/"}, failing{}); !errors.Is(err, errSource) {
		t.Errorf("Put of a failing source = %v, want its error", err)
	}
}

var errSource = errors.New("source")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errSource }

// A reader that dies at any moment loses and doubles nothing.
func TestLogsSurviveReaders(t *testing.T) {
	r := start(t, fake.New())
	r.run(t, "nginx")
	const lines = 5000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range lines {
			if err := r.guest.Print("web", fmt.Sprint(i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer wg.Wait()
	var got []string
	var last uint64
	for round := 0; len(got) < lines; round++ {
		quota := 1 + round*37%400
		errQuota := errors.New("reader died")
		err := control.ReadLogs(r.ctx, r.Logs(), r.Record().Key, last, func(rec wire.LogRecord) error {
			got = append(got, string(rec.Line))
			last = rec.Seq
			if quota--; quota == 0 || len(got) == lines {
				return errQuota
			}
			return nil
		})
		if !errors.Is(err, errQuota) {
			t.Fatal(err)
		}
	}
	for i, line := range got {
		if line != fmt.Sprint(i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

func TestLogLines(t *testing.T) {
	r := start(t, fake.New())
	long := strings.Repeat("y", wire.MaxLogLine+10)
	r.run(t, "sh", "-c", "echo short; echo "+long)
	var got []wire.LogRecord
	enough := errors.New("enough")
	err := control.ReadLogs(r.ctx, r.Logs(), r.Record().Key, 0, func(rec wire.LogRecord) error {
		if got = append(got, rec); len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	var shape []string
	for _, g := range got {
		shape = append(shape, fmt.Sprintf("%d %d %v %s", g.Seq, len(g.Line), g.Partial, g.Container[:4]))
	}
	want := []string{"1 5 false 0123", fmt.Sprintf("2 %d true 0123", wire.MaxLogLine), "3 10 false 0123"}
	if !slices.Equal(shape, want) {
		t.Errorf("records %q, want %q", shape, want)
	}
}

func TestCrashAndDiskFull(t *testing.T) {
	r := start(t, fake.New())
	r.guest.DiskFull("image")
	if n := <-r.Notices(); n.Kind != machine.NoticeDiskFull || n.Serial != "image" {
		t.Errorf("notice %+v", n)
	}
	if err := r.Resume(r.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Stats(r.ctx); err != nil {
		t.Errorf("Stats after Resume: %v", err)
	}
	r.guest.Crash("Kernel panic - not syncing: test")
	if exit, err := r.Wait(r.ctx); err != nil || exit != (machine.Exit{Known: true}) {
		t.Errorf("Exit = %+v, %v", exit, err)
	}
	if !strings.Contains(r.ConsoleTail(), "Kernel panic") {
		t.Errorf("console %q", r.ConsoleTail())
	}
	<-r.Done()
	if _, err := r.Stats(r.ctx); err == nil {
		t.Error("a crashed machine answered")
	}
}
