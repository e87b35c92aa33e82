package autostart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func unit(t *testing.T, env map[string]string) *Unit {
	t.Helper()
	u, err := New("/opt/my stack/bin/stack", func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestOnAndOff(t *testing.T) {
	home := t.TempDir()
	u := unit(t, map[string]string{"HOME": home})
	other := unit(t, map[string]string{"HOME": home, "STACK_HOME": `/data/100%"`})
	state := func(want, wantCurrent bool) {
		t.Helper()
		if on, current, err := u.IsOn(); on != want || current != wantCurrent || err != nil {
			t.Errorf("on %t, current %t, %v", on, current, err)
		}
	}
	state(false, false)
	for range 2 { // the second changes nothing
		if err := u.On(t.Context()); err != nil {
			t.Fatal(err)
		}
		state(true, true)
	}
	if u.Name() != "stack.service" || other.Name() == u.Name() {
		t.Errorf("units %s and %s", u.Name(), other.Name())
	}
	if err := other.On(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(home, ".config/systemd/user/default.target.wants", other.Name())) // through the link
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`Environment="STACK_HOME=/data/100%%\""`, `ExecStart=:"/opt/my stack/bin/stack" autostart run`, "WantedBy=default.target"} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
	u.Executable = "/elsewhere/stack"
	state(true, false)
	if err := u.Off(t.Context()); err != nil {
		t.Fatal(err)
	}
	state(false, false)
	if err := u.Off(t.Context()); err != nil { // again
		t.Error(err)
	}
	if on, _, err := other.IsOn(); !on || err != nil {
		t.Errorf("the other home's: %t, %v", on, err)
	}
}

func TestForeignUnitStays(t *testing.T) {
	u := unit(t, map[string]string{"XDG_CONFIG_HOME": t.TempDir()})
	if err := os.MkdirAll(u.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(u.Path(), []byte("[Unit]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if u.On(t.Context()) == nil || u.Off(t.Context()) == nil {
		t.Error("a unit of somebody else's: no error")
	}
	if have, err := os.ReadFile(u.Path()); string(have) != "[Unit]\n" {
		t.Errorf("it is now %q, %v", have, err)
	}
}

func TestUnitRefusesControlCharacters(t *testing.T) {
	u := unit(t, map[string]string{"HOME": t.TempDir(), "STACK_HOME": "/a\nExecStart=/bin/evil"})
	if _, err := u.Text(); err == nil {
		t.Error("no error")
	}
}

func TestLingers(t *testing.T) {
	root := fstest.MapFS{"var/lib/systemd/linger/ann": {}}
	if !Lingers(root, "ann") || Lingers(root, "bob") {
		t.Error("wrong")
	}
}
