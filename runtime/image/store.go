package image

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image/erofs"
)

// ErrNotFound is what Get and Remove wrap when the store has no such image.
var ErrNotFound = errors.New("no such image in the store")

// Options are what a Store works with.
type Options struct {
	Config *config.Config // nil: defaults
	Log    *slog.Logger   // nil: none
}

// Store is a directory of images. It is safe for concurrent use, and several
// processes may have the same directory open.
type Store struct {
	dir string
	cfg *config.Config
	log *slog.Logger

	layers flight[Progress] // downloads under way, by diff-id
	metas  flight[struct{}] // metadata images being made, by key

	// What a pull at a time may do: as docker's max-concurrent-downloads.
	slots chan struct{}

	mu sync.Mutex // held, with the lock file, while references change
}

// The store's directories and files.
//
//	blobs/HEX      data of a layer, by diff-id
//	trees/HEX      tree record of a layer; there once both are whole
//	meta/HEX       metadata image of a sequence of layers
//	images/HEX     record of an image, by the manifest's digest
//	json/HEX       manifest, index or configuration as it came
//	refs.json      what names lead to
//	locks/         held by whoever writes; empty files
//	tmp/           what is not whole yet
var storeDirs = []string{"blobs", "trees", "meta", "images", "json", "locks", "tmp"}

// Dir is where the store of a user's images is.
func Dir(d config.Dirs) string { return filepath.Join(d.Data, "images") }

// Open opens the store in dir, creating it if need be, and removes what earlier
// processes left unfinished.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Config == nil {
		opt.Config = &config.Config{}
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, cfg: opt.Config, log: opt.Log, slots: make(chan struct{}, 3)}
	for _, d := range storeDirs {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("opening the image store: %w", err)
		}
	}
	if _, err := s.readRefs(); err != nil {
		return nil, fmt.Errorf("opening the image store: %w", err)
	}
	if err := s.collect(); err != nil {
		return nil, fmt.Errorf("opening the image store: %w", err)
	}
	return s, nil
}

// Close ends the downloads under way and waits for them. Disks handed out stay
// valid.
func (s *Store) Close() error {
	s.layers.close()
	s.metas.close()
	return nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// refs is the content of refs.json.
type refs struct {
	Version int                          `json:"version"`
	Refs    map[string]map[string]string `json:"refs"` // full name -> platform -> manifest digest
}

// record is the content of a file in images/.
type record struct {
	Version int `json:"version"`
	Image
}

func (s *Store) readRefs() (*refs, error) {
	r := &refs{}
	err := readJSON(s.path("refs.json"), r)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	r.Version = version
	if r.Refs == nil {
		r.Refs = make(map[string]map[string]string)
	}
	return r, err
}

// changeRefs lets change alter the references while nobody else does.
func (s *Store) changeRefs(change func(*refs) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	use, err := s.use()
	if err != nil {
		return err
	}
	defer use.unlock()
	lock, err := lockAlone(s.path("locks", "refs"))
	if err != nil {
		return err
	}
	defer lock.unlock()
	r, err := s.readRefs()
	if err != nil {
		return err
	}
	if err := change(r); err != nil {
		return err
	}
	return s.writeJSON(s.path("refs.json"), r)
}

func (r *refs) set(name string, p Platform, digest string) {
	if r.Refs[name] == nil {
		r.Refs[name] = make(map[string]string)
	}
	r.Refs[name][p.String()] = digest
}

// load reads the record of a manifest, with the names that lead to it.
func (s *Store) load(digest string, r *refs) (*Image, error) {
	var rec record
	if err := readJSON(s.path("images", hexOf(digest)), &rec); err != nil {
		return nil, err
	}
	img := rec.Image
	for name, platforms := range r.Refs {
		for _, d := range platforms {
			if d == digest && !strings.Contains(name, "@") {
				if ref, err := ParseRef(name); err == nil {
					img.Tags = append(img.Tags, ref.Familiar())
				}
			}
		}
	}
	slices.Sort(img.Tags)
	img.Tags = slices.Compact(img.Tags)
	return &img, nil
}

// Get returns the image a name, a digest, or an id or its beginning leads to; a
// name goes before the beginning of an id. platform "" asks for the host's, or
// else for the only one there is.
func (s *Store) Get(ref, platform string) (*Image, error) {
	r, err := s.readRefs()
	if err != nil {
		return nil, err
	}
	img, _, err := s.find(ref, platform, r)
	return img, err
}

// find is Get; named tells that it was the name that led to the image.
func (s *Store) find(ref, platform string, r *refs) (img *Image, named bool, err error) {
	want, err := ParsePlatform(platform)
	if err != nil {
		return nil, false, err
	}
	id := hexOf(ref)
	if isHex(id) && len(id) == 64 {
		img, err = s.byID(id, r)
		return img, false, err
	}
	parsed, err := ParseRef(ref)
	if err != nil {
		return nil, false, err
	}
	digest := choose(r.Refs[parsed.String()], want, platform == "")
	if digest == "" && parsed.Digest != "" {
		digest = s.byDigest(parsed.Digest, want, platform == "", r)
	}
	if digest == "" && isHex(id) && len(id) >= 4 {
		img, err = s.byID(id, r)
		return img, false, err
	}
	if digest == "" {
		return nil, false, fmt.Errorf("image %q for %s: %w", parsed.Familiar(), want, ErrNotFound)
	}
	img, err = s.load(digest, r)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("image %q: %w", parsed.Familiar(), ErrNotFound)
	}
	return img, true, err
}

// choose picks the digest for a platform; anyOne accepts another if it is alone.
func choose(platforms map[string]string, want Platform, anyOne bool) string {
	best, digest := 0, ""
	for _, s := range slices.Sorted(maps.Keys(platforms)) {
		p, err := ParsePlatform(s)
		if err != nil {
			continue
		}
		if n := want.runs(p); n > best {
			best, digest = n, platforms[s]
		}
	}
	if digest == "" && anyOne && len(platforms) == 1 {
		for _, d := range platforms {
			digest = d
		}
	}
	return digest
}

// byID returns the only image whose id begins with id.
func (s *Store) byID(id string, r *refs) (*Image, error) {
	images, err := s.all(r)
	if err != nil {
		return nil, err
	}
	var found *Image
	for _, img := range images {
		switch {
		case !strings.HasPrefix(img.ID, id):
		case found != nil && found.ID != img.ID:
			return nil, fmt.Errorf("image %q: several ids begin so", id)
		default:
			found = img
		}
	}
	if found == nil {
		return nil, fmt.Errorf("image %q: %w", id, ErrNotFound)
	}
	return found, nil
}

// byDigest finds an image that came under another name.
func (s *Store) byDigest(digest string, want Platform, anyOne bool, r *refs) string {
	images, err := s.all(r)
	if err != nil {
		return ""
	}
	platforms := make(map[string]string)
	for _, img := range images {
		if img.Digest == digest {
			return img.Digest
		}
		if img.Index == digest {
			platforms[img.Platform.String()] = img.Digest
		}
	}
	return choose(platforms, want, anyOne)
}

// List returns every image, those with names first, in the order of names.
func (s *Store) List() ([]*Image, error) {
	r, err := s.readRefs()
	if err != nil {
		return nil, err
	}
	return s.all(r)
}

func (s *Store) all(r *refs) ([]*Image, error) {
	files, err := os.ReadDir(s.path("images"))
	if err != nil {
		return nil, err
	}
	var images []*Image
	for _, f := range files {
		img, err := s.load("sha256:"+f.Name(), r)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	slices.SortFunc(images, func(a, b *Image) int {
		switch {
		case len(a.Tags) == 0 && len(b.Tags) == 0:
			return strings.Compare(a.Digest, b.Digest)
		case len(a.Tags) == 0:
			return 1
		case len(b.Tags) == 0:
			return -1
		}
		if c := strings.Compare(a.Tags[0], b.Tags[0]); c != 0 {
			return c
		}
		return strings.Compare(a.Platform.String(), b.Platform.String())
	})
	return images, nil
}

// use keeps collections away until its lock is released: from files that are not
// yet whole, and from those that no image needs yet.
func (s *Store) use() (*fileLock, error) { return lockShared(s.path("locks", "use")) }

// collect removes what no image needs, unless a pull anywhere is under way: it
// may be about to need it. The next collection gets it then.
func (s *Store) collect() error {
	lock, err := tryLockAlone(s.path("locks", "use"))
	if lock == nil || err != nil {
		return err
	}
	defer lock.unlock()

	r, err := s.readRefs()
	if err != nil {
		return err
	}
	images, err := s.all(r)
	if err != nil {
		return err
	}
	need := map[string]map[string]bool{"blobs": {}, "trees": {}, "meta": {}, "json": {}, "tmp": {}}
	for _, img := range images {
		need["meta"][metaKey(img.Layers)] = true
		need["json"][img.ID], need["json"][hexOf(img.Digest)], need["json"][hexOf(img.Index)] = true, true, true
		for _, l := range img.Layers {
			need["blobs"][hexOf(l.DiffID)], need["trees"][hexOf(l.DiffID)] = true, true
		}
	}
	// The tree goes before the blob: a tree without its blob would look whole.
	for _, dir := range []string{"trees", "blobs", "meta", "json", "tmp"} {
		files, err := os.ReadDir(s.path(dir))
		if err != nil {
			return err
		}
		for _, f := range files {
			if need[dir][f.Name()] {
				continue
			}
			if err := remove(s.path(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Disk is the content of a read-only disk: its extents, one after the other.
type Disk struct{ Extents []Extent }

// Extent is a whole file of the store. Bytes is its length, a multiple of 4 KiB.
type Extent struct {
	Path  string
	Bytes int64
}

// Bytes is the length of the disk.
func (d Disk) Bytes() (n int64) {
	for _, e := range d.Extents {
		n += e.Bytes
	}
	return n
}

// Disk returns the image's disk: an EROFS whose metadata comes first, then the
// data of each layer.
func (s *Store) Disk(img *Image) (Disk, error) {
	meta, err := s.meta(img)
	if err != nil {
		return Disk{}, fmt.Errorf("disk of image %s: %w", img.Digest, err)
	}
	d := Disk{Extents: []Extent{meta}}
	for _, l := range distinct(img.Layers) {
		if l.Blocks == 0 {
			continue
		}
		e := Extent{s.path("blobs", hexOf(l.DiffID)), int64(l.Blocks) * erofs.BlockSize}
		info, err := os.Stat(e.Path)
		if err != nil || info.Size() != e.Bytes {
			return Disk{}, fmt.Errorf("disk of image %s: layer %s is not in the store: pull the image again", img.Digest, l.DiffID)
		}
		d.Extents = append(d.Extents, e)
	}
	return d, nil
}

// distinct returns the layers without repetitions: each blob is on the disk once.
func distinct(layers []Layer) []Layer {
	seen := make(map[string]bool)
	var out []Layer
	for _, l := range layers {
		if !seen[l.DiffID] {
			seen[l.DiffID] = true
			out = append(out, l)
		}
	}
	return out
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
