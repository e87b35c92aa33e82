package supervisor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/machine/fake"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

// sharing is a project of services that all mount one volume.
func sharing(names ...string) *spec.Project {
	p := project("shop")
	for _, name := range names {
		svc := service(name, "server")
		svc.Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "data", Target: "/data", ReadOnly: name == "reader"}}
		p.Services[name] = svc
	}
	return p
}

// serving returns a function that waits until the storage machine serves as many
// clients.
func (w *world) serving() func(clients int) (*fake.Guest, *wire.Serve) {
	told := make(chan struct{}, 1000)
	w.driver.OnServe = func() { told <- struct{}{} }
	return func(clients int) (*fake.Guest, *wire.Serve) {
		w.t.Helper()
		late := time.After(patience)
		for {
			if g := w.driver.Guest("storage of shop"); g != nil {
				if s := g.Served(); s != nil && len(s.Clients) == clients {
					return g, s
				}
			}
			select {
			case <-told:
			case <-late:
				w.t.Fatalf("the storage machine does not serve %d clients", clients)
			}
		}
	}
}

// Services that want one volume mount it from a storage machine, which is told
// who may do what. It is started again when it crashes, adopted, and ends with
// its users; with one user left the disk is that one's own.
func TestSharedVolume(t *testing.T) {
	w := newWorld(t)
	serves := w.serving()
	p := sharing("web", "reader")
	w.up(p)
	storage, served := serves(2)
	serial := volumeSerial("shop_data")
	if !slices.Contains(storage.Disks(), serial) || slices.Contains(w.guest("shop-web-1").Disks(), serial) {
		t.Errorf("the storage machine has disks %v, a user %v", storage.Disks(), w.guest("shop-web-1").Disks())
	}
	var lock *volume.BusyError
	if _, err := w.volumes.Lock("shop_data", "another"); !errors.As(err, &lock) {
		t.Errorf("the volume's lock is free: %v", err)
	}
	for name, readOnly := range map[string]bool{"shop-web-1": false, "shop-reader-1": true} {
		c, _ := w.guest(name).Container(name)
		i := slices.IndexFunc(served.Clients, func(o wire.StorageClient) bool { return c.Storage != nil && o.ID == c.Storage.Client })
		if i < 0 || served.Clients[i].Volumes[serial] != readOnly || c.Mounts[0].Kind != wire.MountShared {
			t.Errorf("%s mounts %+v from %+v; served is %+v", name, c.Mounts, c.Storage, served)
		}
	}

	// A second up has nothing to do, nor has one after another supervisor took over.
	for range 2 {
		for _, e := range w.up(p) {
			if e.Kind == api.EventPlan && !e.Plan.Empty() {
				t.Errorf("there is something to do:\n%s", e.Plan)
			}
		}
		w.restart()
		if g, _ := serves(2); g != storage {
			t.Error("the storage machine was not adopted")
		}
	}

	storage.Crash("kernel panic")
	_, again := serves(2)
	if again.Volumes[0] != served.Volumes[0] || again.Interface.MAC != served.Interface.MAC || !slices.EqualFunc(again.Clients, served.Clients, func(a, b wire.StorageClient) bool { return a.ID == b.ID && a.Addr == b.Addr }) {
		t.Errorf("after a crash it serves %+v, before %+v", again, served)
	}

	// A user that ends takes its place along.
	w.guest("shop-reader-1").Crash("gone")
	w.until("shop-reader-1", func(r *state.Replica) bool { return r.Status == planner.StatusExited })
	serves(1)

	// One user that is made again: its disk again.
	p = sharing("web")
	p.Services["web"].Hash = "other"
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p, Options: planner.Options{RemoveOrphans: true}, Confirm: api.ConfirmAll}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(w.guest("shop-web-1").Disks(), serial) {
		t.Errorf("the only user has disks %v", w.guest("shop-web-1").Disks())
	}

	// And many again, at once with pausing for the move.
	w.up(sharing("web", "reader"))
	serves(2)
	w.down(p, true)
	w.nothingLeft()
	if _, err := w.volumes.Get("shop_data"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the volume is there: %v", err)
	}
}

// A storage machine that waits for space on the host says so at those who wait for
// it; and one that is lost with all others comes back with them.
func TestStorageTrouble(t *testing.T) {
	w := newWorld(t)
	serves := w.serving()
	p := sharing("web", "worker")
	for _, svc := range p.Services {
		svc.Restart.Policy = "always"
	}
	w.up(p)
	storage, _ := serves(2)
	w.free.Store(resumeBytes - 1)
	storage.DiskFull(volumeSerial("shop_data"))
	for _, name := range []string{"shop-web-1", "shop-worker-1"} {
		if rec := w.until(name, func(rec *state.Replica) bool { return rec.Notice != "" }); rec.Notice != "paused: no space left on the host for volume shop_data" {
			t.Errorf("%s: %q", name, rec.Notice)
		}
	}
	w.free.Store(resumeBytes)
	for _, name := range []string{"shop-web-1", "shop-worker-1"} {
		w.until(name, func(rec *state.Replica) bool { return rec.Notice == "" })
	}

	w.close()
	w.keeper.close()
	w.driver.Close() // as the host's kernel ends a machine whose files are gone
	w.open()
	w.until("shop-web-1", running)
	w.until("shop-worker-1", running)
	serves(2)

	// A host that shuts down ends it after those who write to it.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w.s.EndAll(ctx)
	if left := w.driver.Guests(); len(left) != 0 {
		t.Errorf("%d machines run", len(left))
	}
	w.restart()
	w.down(p, true)
	w.nothingLeft()
}
