package image

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrInUse is what Remove wraps when it refuses: a container uses the image, or
// it has several names.
var ErrInUse = errors.New("conflict")

// Use is a container that keeps an image.
type Use struct {
	Container string // its id
	Running   bool
	Mounted   bool // by name, as a volume, and not as what the container runs
}

// RemoveOptions are one removal's own.
type RemoveOptions struct {
	Force bool
	// Platforms are the only ones to remove, as os/arch or os/arch/variant; a name
	// stays as long as it leads to another. Empty: all.
	Platforms []string
	// Uses tells what uses an image; nil: nothing does. It must not change the
	// store.
	Uses func(*Image) []Use
}

// Removed is what a removal did.
type Removed struct {
	Untagged []string // names taken away, as docker shows them, sorted
	Deleted  []string // ids of the images that are gone
}

// Remove takes a name away, of every platform it has, and with its last name the
// image and whatever no other image shares. An id, or a digest that is no name,
// takes all names away. The rules are docker's: without Force an image stays that a container uses, whether it runs
// or not, and an id does not do for an image of several names. Force takes the
// names, but the image goes on being there as long as a container uses it.
func (s *Store) Remove(ref string, opt RemoveOptions) (Removed, error) {
	var done Removed
	err := s.changeRefs(func(r *refs) error {
		images, names, err := s.removal(ref, r)
		if err == nil {
			images, err = opt.chosen(images)
		}
		if err != nil {
			return err
		}
		for _, img := range images {
			if err := img.removable(ref, names, opt); err != nil {
				return err
			}
		}
		defer func() { // a name of several platforms may lead to the others still
			done.Untagged = slices.DeleteFunc(done.Untagged, func(name string) bool {
				parsed, err := ParseRef(name)
				return err == nil && r.Refs[parsed.String()] != nil
			})
		}()
		for _, img := range images {
			gone := names
			if gone == nil {
				gone = r.names(img.Digest)
			}
			done.Untagged = append(done.Untagged, r.drop(img.Digest, gone)...)
			if slices.ContainsFunc(r.names(img.Digest), isTag) {
				continue // by another tag
			}
			done.Untagged = append(done.Untagged, r.drop(img.Digest, r.names(img.Digest))...) // name@digest alone keeps nothing
			if len(opt.uses(img)) > 0 {
				continue
			}
			if err := remove(s.path("images", hexOf(img.Digest))); err != nil {
				return err
			}
			done.Deleted = append(done.Deleted, img.ID)
		}
		return nil
	})
	if err != nil {
		return Removed{}, fmt.Errorf("removing image %q: %w", ref, err)
	}
	slices.Sort(done.Untagged)
	done.Untagged = slices.Compact(done.Untagged)
	return done, s.collect()
}

// chosen are the images of the platforms that are to be removed, each of which
// there must be.
func (o RemoveOptions) chosen(images []*Image) ([]*Image, error) {
	if len(o.Platforms) == 0 {
		return images, nil
	}
	var chosen []*Image
	for _, text := range o.Platforms {
		p, err := ParsePlatform(text)
		if err != nil {
			return nil, err
		}
		n := slices.IndexFunc(images, func(img *Image) bool { return img.Platform == p })
		if n < 0 {
			return nil, fmt.Errorf("for %s: %w", p, ErrNotFound)
		}
		chosen = append(chosen, images[n])
	}
	return chosen, nil
}

// removal is what a name or an id is about: the images, of several platforms
// perhaps, and the names to take from them, nil for all.
func (s *Store) removal(ref string, r *refs) (images []*Image, names []string, err error) {
	if parsed, err := ParseRef(ref); err == nil && len(r.Refs[parsed.String()]) > 0 {
		for _, digest := range r.Refs[parsed.String()] {
			img, err := s.load(digest, r)
			if err != nil {
				return nil, nil, err
			}
			images = append(images, img)
		}
		return images, []string{parsed.String()}, nil
	}
	img, _, err := s.find(ref, "", r)
	return []*Image{img}, nil, err
}

// removable tells why an image must not lose these names, nil for all.
func (img *Image) removable(ref string, names []string, opt RemoveOptions) error {
	id, byID := img.ID[:min(12, len(img.ID))], names == nil
	others := slices.DeleteFunc(slices.Clone(img.Tags), func(tag string) bool {
		parsed, err := ParseRef(tag)
		return err == nil && slices.Contains(names, parsed.String())
	})
	uses := opt.uses(img)
	slices.SortStableFunc(uses, func(a, b Use) int { // what cannot be forced is told first
		switch hard := func(u Use) bool { return u.Mounted || u.Running }; {
		case hard(a) == hard(b):
			return 0
		case hard(a):
			return -1
		}
		return 1
	})
	for _, use := range uses {
		container := use.Container[:min(12, len(use.Container))]
		switch {
		case use.Mounted:
			return fmt.Errorf("%w: unable to delete %s (cannot be forced) - image is mounted by container %s", ErrInUse, id, container)
		case byID && use.Running:
			return fmt.Errorf("%w: unable to delete %s (cannot be forced) - image is being used by running container %s", ErrInUse, id, container)
		case opt.Force:
		case byID:
			return fmt.Errorf("%w: unable to delete %s (must be forced) - image is being used by stopped container %s", ErrInUse, id, container)
		case len(others) == 0:
			return fmt.Errorf("%w: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", ErrInUse, ref, container, id)
		}
	}
	if byID && !opt.Force && len(img.Tags) > 1 {
		return fmt.Errorf("%w: unable to delete %s (must be forced) - image is referenced in multiple repositories", ErrInUse, id)
	}
	return nil
}

func (o RemoveOptions) uses(img *Image) []Use {
	if o.Uses == nil {
		return nil
	}
	return o.Uses(img)
}

func isTag(name string) bool { return !strings.Contains(name, "@") }

// names are all that lead to a manifest, sorted.
func (r *refs) names(digest string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.Refs)) {
		if slices.Contains(slices.Collect(maps.Values(r.Refs[name])), digest) {
			names = append(names, name)
		}
	}
	return names
}

// drop has names no longer lead to a manifest; it returns them as docker shows
// them.
func (r *refs) drop(digest string, names []string) []string {
	var shown []string
	for _, name := range names {
		maps.DeleteFunc(r.Refs[name], func(_, d string) bool { return d == digest })
		if len(r.Refs[name]) == 0 {
			delete(r.Refs, name)
		}
		if ref, err := ParseRef(name); err == nil {
			name = ref.Familiar()
		}
		shown = append(shown, name)
	}
	return shown
}
