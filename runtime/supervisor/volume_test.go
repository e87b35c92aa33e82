package supervisor

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// withData is a project whose only service keeps its data in a volume.
func withData(name string) *spec.Project {
	db := service("db")
	db.Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data"}}
	p := project(name, db)
	p.Volumes = map[string]*spec.Volume{"data": {Key: "data", Name: name + "_data"}}
	return p
}

func code(err error) api.ErrorCode {
	if e, ok := err.(*api.Error); ok { //nolint:errorlint // nothing wraps what a client returns
		return e.Code
	}
	return ""
}

// A volume that a container has, running or stopped, is not removed, nor is one
// of another name ever.
func TestVolumeRemove(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	p := withData("shop")
	w.up(p)
	other, err := c.CreateVolume(t.Context(), api.VolumeCreate{Name: "shop_other", Labels: map[string]string{"com.docker.compose.project": "elsewhere"}})
	if err != nil || other != "shop_other" {
		t.Fatal(other, err)
	}
	refused := func(when string) {
		t.Helper()
		err := c.RemoveVolume(t.Context(), "shop_data")
		if code(err) != api.CodeConflict || !strings.Contains(err.Error(), "volume is in use - [shop-db-1]") {
			t.Errorf("%s: %v", when, err)
		}
		if _, err := w.volumes.Get("shop_data"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("running")
	if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p}); err != nil {
		t.Fatal(err)
	}
	refused("stopped")
	w.down(p, false)
	if err := c.RemoveVolume(t.Context(), "shop_data"); err != nil {
		t.Error(err)
	}
	if err := c.RemoveVolume(t.Context(), "shop_data"); code(err) != api.CodeNotFound {
		t.Errorf("again: %v", err)
	}
	if v, err := w.volumes.Get("shop_other"); err != nil || v.Project != "elsewhere" {
		t.Errorf("the other volume: %+v, %v", v, err)
	}
}

// A volume is read and filled through the machine that has it, or one made for
// it, which is gone when that is done.
func TestVolumeImportExport(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	if _, err := c.CreateVolume(t.Context(), api.VolumeCreate{Name: "shop_data", Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.volume": "data"}}); err != nil {
		t.Fatal(err)
	}
	read := func() []byte {
		t.Helper()
		r, err := c.ExportVolume(t.Context(), "shop_data")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	one, two := tarOf(t, "a", "one"), tarOf(t, "a", "two")
	if err := c.ImportVolume(t.Context(), api.VolumeImport{Name: "shop_data"}, bytes.NewReader(one)); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(read(), one) { // the fake disk's zeros follow
		t.Error("exported is not what was imported")
	}
	err := c.ImportVolume(t.Context(), api.VolumeImport{Name: "shop_data"}, bytes.NewReader(two))
	if code(err) != api.CodeConflict || !bytes.HasPrefix(read(), one) {
		t.Errorf("into a volume that is not empty: %v", err)
	}
	if n := len(w.driver.Guests()); n != 0 {
		t.Errorf("%d machines are left", n)
	}
	p := withData("shop")
	w.up(p) // a volume with the project's labels is the project's
	if !bytes.HasPrefix(read(), one) {
		t.Error("the running service's volume is another")
	}
	if err := c.ImportVolume(t.Context(), api.VolumeImport{Name: "shop_data", Force: true}, bytes.NewReader(two)); err != nil || !bytes.HasPrefix(read(), two) {
		t.Errorf("with force: %v", err)
	}
	if n := len(w.driver.Guests()); n != 1 {
		t.Errorf("%d machines run, want the service's", n)
	}
	w.down(p, true)
	w.nothingLeft()
}

// A supervisor that dies while a volume has a machine of its own leaves no trace
// of that to the next, which ends its process.
func TestVolumeMachineIsOrphaned(t *testing.T) {
	w := newWorld(t)
	if _, err := w.s.createVolume(t.Context(), api.VolumeCreate{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := w.s.openVolume(t.Context(), "data", "volume export"); err != nil {
		t.Fatal(err)
	}
	if machines, err := w.s.opt.State.Machines(); err != nil || len(machines) != 1 {
		t.Fatalf("%d machines are recorded, %v", len(machines), err)
	}
	w.restart()
	if machines, err := w.s.opt.State.Machines(); err != nil || len(machines) != 0 {
		t.Errorf("%d machines are recorded after the restart, %v", len(machines), err)
	}
	if len(w.s.hosts) != 0 || len(w.keeper.names()) != 0 {
		t.Errorf("%d machines are supervised, the keeper holds %v", len(w.s.hosts), w.keeper.names())
	}
}
