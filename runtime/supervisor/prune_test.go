package supervisor

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

// leave makes a one-off of a service that has exited, with an anonymous volume.
func (w *world) leave(p *spec.Project) *state.Replica {
	w.t.Helper()
	set := service("db", "server")
	set.Mounts = []spec.Mount{{Type: spec.MountVolume, Target: "/scratch"}}
	var made string
	w.s.Run(context.Background(), api.Run{Project: p, Service: "db", Set: set}, func(e api.Event) {
		if e.Kind == api.EventCreated {
			made = e.Replica.ID
		}
	})
	r, err := w.s.find(made)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.s.start(ctx, r); err != nil {
		w.t.Fatal(err)
	}
	if err := w.s.stop(ctx, r, 0); err != nil {
		w.t.Fatal(err)
	}
	return w.s.snapshot(r)
}

// Whatever a prune is asked for, what a container needs stays, and so does what
// was not asked for or was not listed.
func TestPrune(t *testing.T) {
	for _, q := range []api.PruneQuery{
		{},
		{All: true},
		{Volumes: true},
		{All: true, Volumes: true},
		{All: true, Volumes: true, Until: time.Unix(2, 0)}, // images are of 1970, the rest is of now
	} {
		t.Run(fmt.Sprintf("all=%t volumes=%t until=%t", q.All, q.Volumes, !q.Until.IsZero()), func(t *testing.T) {
			w := newWorld(t)
			p := withData("shop")
			p.Services["db"].Mounts = append(p.Services["db"].Mounts, spec.Mount{Type: spec.MountVolume, Target: "/anonymous"})
			idle := service("idle", "server")
			idle.Image = "idle:1"
			p.Services["idle"] = idle
			w.images.add("idle:1", image.Config{})
			w.images.add("tagged:1", image.Config{})
			w.images.images["tagged:1"].Tags = []string{"tagged:1"}
			w.images.add("dangling", image.Config{})
			w.up(p)
			if _, err := w.apply(api.Apply{Command: api.Stop, Name: "shop", Project: p, Selection: planner.Selection{Services: []string{"idle"}}}); err != nil {
				t.Fatal(err)
			}
			for _, v := range []volume.Volume{{Name: "mine"}, {Name: "lost", Anonymous: true}} {
				if err := w.s.makeVolume(v); err != nil {
					t.Fatal(err)
				}
			}
			left := w.leave(p)
			found, err := w.s.prunable(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			scratch := anonymous(left)[0]
			want := map[string][]string{"container": {left.Name}, "volume": {"lost", scratch}, "image": {w.images.images["dangling"].ID}}
			if q.Volumes {
				want["volume"] = append(want["volume"], "mine")
			}
			if q.All {
				want["image"] = append(want["image"], w.images.images["tagged:1"].ID)
			}
			if !q.Until.IsZero() {
				want["container"], want["volume"] = nil, nil
			}
			if diff := cmp.Diff(sorted(want), listed(found)); diff != "" {
				t.Errorf("listed (-want +got):\n%s", diff)
			}
			// Between the list and the removal somebody comes to need one of each, as
			// far as there is one.
			needy := service("needy", "server")
			needy.Image = "dangling"
			needy.Mounts = []spec.Mount{{Type: spec.MountVolume, Source: "mine", Target: "/mine"}}
			p.Volumes["mine"] = &spec.Volume{Key: "mine", Name: "mine", External: true}
			p.Services["needy"] = needy
			w.up(p)
			done, err := w.s.prune(t.Context(), found)
			if err != nil {
				t.Fatal(err)
			}
			want["volume"] = slices.DeleteFunc(want["volume"], func(n string) bool { return n == "mine" })
			want["image"] = slices.DeleteFunc(want["image"], func(id string) bool { return id == w.images.images["dangling"].ID })
			if diff := cmp.Diff(sorted(want), listed(done)); diff != "" {
				t.Errorf("removed (-want +got):\n%s", diff)
			}
			for _, name := range []string{"shop-db-1", "shop-needy-1", "shop-idle-1"} {
				rec := w.rec(name)
				for _, m := range rec.Mounts {
					if _, err := w.volumes.Get(m.Volume); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				if _, err := w.images.Get(rec.ImageID, ""); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if again, err := w.s.prune(t.Context(), found); err != nil || len(listed(again)) != 0 {
				t.Errorf("again: %v, %v", again, err)
			}
			w.down(p, true)
			if _, err := w.volumes.Get("mine"); err != nil {
				t.Error("down -v removed an external volume")
			}
		})
	}
}

func listed(p api.Pruned) map[string][]string {
	out := map[string][]string{}
	add := func(what string, list []api.Freed) {
		for _, f := range list {
			if what == "container" {
				f.ID = f.Name
			}
			out[what] = append(out[what], f.ID)
		}
	}
	add("container", p.Containers)
	add("volume", p.Volumes)
	add("image", p.Images)
	return sorted(out)
}

func sorted(m map[string][]string) map[string][]string {
	out := map[string][]string{}
	for k, v := range m {
		if len(v) > 0 {
			out[k] = slices.Sorted(slices.Values(v))
		}
	}
	return out
}
