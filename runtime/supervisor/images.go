package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// pin records a replica, which from then on keeps its image: a removal sees
// either the replica, or is over before the image is looked for.
func (s *Supervisor) pin(rec *state.Replica) (*replica, error) {
	s.images.RLock()
	defer s.images.RUnlock()
	for _, id := range imagesOf(rec) {
		if _, err := s.opt.Images.Get(id, rec.Platform); err != nil {
			return nil, fmt.Errorf("container %s: %w", rec.Name, err)
		}
	}
	if err := s.opt.State.PutReplica(rec); err != nil {
		return nil, err
	}
	r := newReplica(*rec)
	s.mu.Lock()
	s.replicas[rec.ID] = r
	s.mu.Unlock()
	return r, nil
}

// removeImage takes a name, or all names of an image, out of the store, unless a
// replica of whatever project needs it.
func (s *Supervisor) removeImage(r api.RemoveImage) (image.Removed, error) {
	ref := r.Image
	s.images.Lock()
	defer s.images.Unlock()
	done, err := s.opt.Images.Remove(ref, image.RemoveOptions{Force: r.Force, Platforms: r.Platforms, Uses: s.usesOf})
	switch {
	case errors.Is(err, image.ErrNotFound):
		if parsed, err := image.ParseRef(ref); err == nil {
			ref = parsed.Familiar()
		}
		if len(r.Platforms) > 0 {
			ref += " for " + strings.Join(r.Platforms, ", ")
		}
		return done, &api.Error{Code: api.CodeNotFound, Message: "No such image: " + ref} // docker's words
	case errors.Is(err, image.ErrInUse):
		return done, &api.Error{Code: api.CodeConflict, Message: err.Error()}
	case err != nil:
		return done, err
	}
	for _, name := range done.Untagged {
		s.emit(objectEvent("image", "untag", "", name, "", "", nil))
	}
	for _, id := range done.Deleted {
		s.emit(objectEvent("image", "delete", id, id, "", "", nil))
	}
	return done, nil
}

// records are all replicas as recorded now, in the order of their ids.
func (s *Supervisor) records() []state.Replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []state.Replica
	for _, id := range sortedKeys(s.replicas) {
		all = append(all, s.replicas[id].rec)
	}
	return all
}

// usesOf are the replicas that need an image.
func (s *Supervisor) usesOf(img *image.Image) []image.Use {
	var uses []image.Use
	for _, rec := range s.records() {
		use := image.Use{Container: rec.ID, Running: rec.Status != planner.StatusCreated && rec.Status != planner.StatusExited && rec.Status != planner.StatusDead}
		if slices.ContainsFunc(imagesOf(&rec), func(id string) bool { return strings.TrimPrefix(id, "sha256:") == img.ID }) {
			uses = append(uses, use)
		}
		for _, m := range rec.MachineMounts() {
			if m.Type != spec.MountImage {
				continue
			}
			if got, err := s.opt.Images.Get(m.Source, rec.Platform); err == nil && got.Digest == img.Digest {
				use.Mounted = true
				uses = append(uses, use)
			}
		}
	}
	return uses
}

// removeImage is a step of down: an image that others use is kept, and one that
// has gone is no fault, as with compose.
func (c *change) removeImage(ref string) error {
	_, err := c.s.removeImage(api.RemoveImage{Image: ref})
	if refused, ok := errors.AsType[*api.Error](err); ok && (refused.Code == api.CodeConflict || refused.Code == api.CodeNotFound) {
		c.warn("image %s is kept: %s", ref, refused.Message)
		return nil
	}
	return err
}
