package supervisor

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stackvm/stack/spec"
)

// What a service binds and is not there is made for all of its users to look
// into, whatever the supervisor's own files are like.
func TestMakeBindSources(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	bind := func(source string, create bool) *spec.Service {
		return &spec.Service{Name: "web", Mounts: []spec.Mount{{Type: spec.MountBind, Source: source, Target: "/data", CreateHostPath: create}}}
	}
	if err := makeBindSources(bind(filepath.Join(dir, "a", "b"), true)); err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{"a", "a/b"} {
		if info, err := os.Stat(filepath.Join(dir, made)); err != nil || info.Mode() != os.ModeDir|0o755 {
			t.Errorf("%s: %v, %v", made, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for source, create := range map[string]bool{"file": true, "missing": false} {
		if err := makeBindSources(bind(filepath.Join(dir, source), create)); err != nil {
			t.Errorf("%s: %v", source, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); err == nil {
		t.Error("a source that must be there was made")
	}
}
