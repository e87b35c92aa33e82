package supervisor

import (
	"errors"
	"testing"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/spec"
)

// TestImagesInUseStay: an image goes only when no replica of any project needs
// it, as what it runs or as a mount; down --rmi leaves it then.
func TestImagesInUseStay(t *testing.T) {
	w := newWorld(t)
	w.images.add("files:1", image.Config{})
	p := project("shop", service("web", "server"))
	p.Services["web"].Mounts = []spec.Mount{{Type: spec.MountImage, Source: "files:1", Target: "/files"}}
	other := project("other", service("web", "server"))
	w.up(p)
	if _, err := w.apply(api.Apply{Command: api.Create, Name: "other", Project: other}); err != nil {
		t.Fatal(err)
	}
	refused := func(ref string, want api.ErrorCode) {
		t.Helper()
		_, err := w.s.removeImage(api.RemoveImage{Image: ref})
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != want {
			t.Errorf("removing %s: %v, want code %s", ref, err, want)
		}
	}
	refused("app:1", api.CodeConflict)
	refused("files:1", api.CodeConflict)
	refused("nothing:1", api.CodeNotFound)
	img, err := w.images.Get("app:1", "")
	if err != nil {
		t.Fatal(err)
	}
	running := map[bool]int{}
	for _, use := range w.s.usesOf(img) {
		running[use.Running]++
	}
	if running[true] != 1 || running[false] != 1 {
		t.Errorf("used by %v", running)
	}

	// The other project's replica, never started, keeps the image.
	down := api.Apply{Command: api.Down, Name: "shop", Project: p, Down: planner.DownOptions{Images: "all"}, Confirm: api.ConfirmAll}
	events, err := w.apply(down)
	if err != nil {
		t.Fatal(err)
	}
	warned := ""
	for _, e := range events {
		if e.Kind == api.EventWarning {
			warned += e.Text
		}
	}
	if _, err := w.images.Get("app:1", ""); err != nil || warned == "" {
		t.Errorf("%v, warned of %q", err, warned)
	}
	down.Name, down.Project = "other", nil // from what was recorded
	if _, err := w.apply(down); err != nil {
		t.Fatal(err)
	}
	if _, err := w.images.Get("app:1", ""); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the image is still there: %v", err)
	}
	if _, err := w.s.removeImage(api.RemoveImage{Image: "files:1"}); err != nil {
		t.Error(err)
	}
	w.nothingLeft()
}
