package supervisor

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/usage"
	"github.com/stackvm/stack/runtime/volume"
)

// prunable lists what nothing needs and a prune may remove; it removes nothing.
func (s *Supervisor) prunable(_ context.Context, q api.PruneQuery) (api.Pruned, error) {
	var found api.Pruned
	old := func(at time.Time) bool { return q.Until.IsZero() || at.Before(q.Until) }
	var kept []state.Replica // what goes on needing images and volumes
	for _, rec := range s.records() {
		if !leftover(&rec) || !old(rec.Created) {
			kept = append(kept, rec)
			continue
		}
		bytes, err := usage.Tree(s.opt.State.ReplicaDir(rec.ID))
		if err != nil {
			return found, err
		}
		found.Containers = append(found.Containers, api.Freed{ID: rec.ID, Name: rec.Name, Bytes: bytes})
	}
	volumes, err := s.opt.Volumes.List()
	if err != nil {
		return found, err
	}
	for _, v := range volumes {
		used := slices.ContainsFunc(kept, func(r state.Replica) bool { return r.Uses(v.Name) })
		if used || !v.Anonymous && !q.Volumes || !old(v.Created) {
			continue
		}
		bytes, err := v.Used()
		if err != nil {
			return found, err
		}
		found.Volumes = append(found.Volumes, api.Freed{ID: v.Name, Name: v.Name, Bytes: bytes})
	}
	images, err := s.opt.Images.List()
	if err != nil {
		return found, err
	}
	var gone, stay []*image.Image
	for _, img := range images {
		used := slices.ContainsFunc(s.usesOf(img), func(u image.Use) bool {
			return slices.ContainsFunc(kept, func(r state.Replica) bool { return r.ID == u.Container })
		})
		if used || len(img.Tags) > 0 && !q.All || !old(img.Pulled) {
			stay = append(stay, img)
			continue
		}
		gone = append(gone, img)
	}
	for i, img := range gone {
		f := api.Freed{ID: img.ID, Name: "<none>", Names: img.Tags, Bytes: usage.Layers(gone[i:i+1], append(slices.Clone(stay), gone[:i]...))}
		if len(img.Tags) > 0 {
			f.Name = img.Tags[0]
		}
		found.Images = append(found.Images, f)
	}
	return found, nil
}

// leftover tells whether a replica is what a run has left behind. Stopped
// services are no leftovers: start brings them back.
func leftover(rec *state.Replica) bool {
	// Its machine may still be ending: a removal waits for that.
	return rec.OneOff && rec.Phase == state.Made && (rec.Status == planner.StatusExited || rec.Status == planner.StatusDead)
}

// prune removes what it is given, as prunable has listed it, and of that only what
// nothing has come to need since. It tells what is gone.
func (s *Supervisor) prune(ctx context.Context, chosen api.Pruned) (api.Pruned, error) {
	var done api.Pruned
	for _, c := range chosen.Containers {
		s.mu.Lock()
		r := s.replicas[c.ID]
		ok := r != nil && leftover(&r.rec)
		s.mu.Unlock()
		if !ok {
			continue
		}
		if err := s.removeReplica(ctx, r, nil); err != nil {
			return done, err
		}
		done.Containers = append(done.Containers, c)
	}
	for _, v := range chosen.Volumes {
		_, err := s.deleteVolume(ctx, api.VolumeRef{Name: v.ID})
		var busy *volume.BusyError
		switch {
		case err == nil:
			done.Volumes = append(done.Volumes, v)
		case errors.As(err, &busy) || keptMeanwhile(err):
		default:
			return done, err
		}
	}
	for _, img := range chosen.Images {
		names := img.Names
		if len(names) == 0 {
			names = []string{img.ID}
		}
		var gone bool
		for _, name := range names { // without force: one in use loses no name
			removed, err := s.removeImage(api.RemoveImage{Image: name})
			if err != nil && !keptMeanwhile(err) {
				return done, err
			}
			gone = gone || slices.Contains(removed.Deleted, img.ID)
		}
		if gone {
			done.Images = append(done.Images, img)
		}
	}
	return done, nil
}

// keptMeanwhile tells of an error that somebody uses a thing now, or was faster.
func keptMeanwhile(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && (e.Code == api.CodeConflict || e.Code == api.CodeNotFound)
}
