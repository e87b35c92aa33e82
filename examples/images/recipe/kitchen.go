package recipe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stackvm/stack/examples/images/apt"
	"github.com/stackvm/stack/examples/images/rootfs"
	"github.com/stackvm/stack/examples/images/store"
)

// listsAge is how old the lists of packages may be before they are fetched again.
const listsAge = 24 * time.Hour

// created is the time of creation every image shows.
var created = v1.Time{Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}

// Kitchen makes images. Use it from one goroutine, holding the store's lock.
type Kitchen struct {
	Store   *store.Store
	Cache   string                           // directory for packages and lists
	Root    string                           // of this repository; "" if it is not at hand
	Update  bool                             // fetch the lists of packages even if they are young
	Say     func(format string, args ...any) // progress, a line each
	apt     packager                         // set at the first package
	updated bool
	made    map[string]*made

	// Of the recipe at work.
	packages []string          // paths of the files
	skip     []string          // what unpack leaves out
	programs map[string]string // binary by path in the image
}

// packager is what a kitchen asks of apt.
type packager interface {
	Age(now time.Time) (time.Duration, error)
	Update(context.Context) error
	Resolve(ctx context.Context, names, assumed []string, present []apt.Package) ([]apt.Package, error)
	Fetch(context.Context, []apt.Package) ([]string, error)
}

// made is an image this kitchen has made or found finished.
type made struct {
	recipe   *Recipe
	key      string
	packages []apt.Package // of the recipe, without its base's
	image    v1.Image
	tree     *rootfs.Tree // nil until a recipe stands on it
}

// Make makes the image of r, and of what it stands on, unless the store has it, and returns it.
func (k *Kitchen) Make(ctx context.Context, r *Recipe) (store.Image, error) {
	m, err := k.make(ctx, r)
	if err != nil {
		return store.Image{}, fmt.Errorf("image %s: %w", r.Name, err)
	}
	images, err := k.Store.Images()
	if err != nil {
		return store.Image{}, err
	}
	for _, img := range images {
		if img.Name == r.Tags[0] && img.Key == m.key {
			return img, nil
		}
	}
	return store.Image{}, fmt.Errorf("image %s: it is not in the store after it was made", r.Name)
}

func (k *Kitchen) make(ctx context.Context, r *Recipe) (*made, error) {
	if m := k.made[r.Name]; m != nil {
		return m, nil
	}
	m := &made{recipe: r}
	var base *made
	if r.Base != "" {
		found, err := Find(r.Base)
		if err != nil {
			return nil, err
		}
		if base, err = k.make(ctx, found); err != nil {
			return nil, fmt.Errorf("base %s: %w", found.Name, err)
		}
	}
	var err error
	if m.packages, err = k.resolve(ctx, r, base); err != nil {
		return nil, err
	}
	if k.programs, err = k.build(ctx, r); err != nil {
		return nil, err
	}
	if m.key, err = key(m, base, k.programs); err != nil {
		return nil, err
	}
	if m.image, err = k.find(m); err != nil {
		return nil, err
	}
	if m.image == nil {
		started := time.Now()
		if err := k.cook(ctx, m, base); err != nil {
			return nil, err
		}
		k.say("made %s in %.1f s", r.Tags[0], time.Since(started).Seconds())
	}
	if k.made == nil {
		k.made = map[string]*made{}
	}
	k.made[r.Name] = m
	return m, nil
}

func (k *Kitchen) say(format string, args ...any) {
	if k.Say != nil {
		k.Say(format, args...)
	}
}

// resolve returns the packages of r that its base does not have.
func (k *Kitchen) resolve(ctx context.Context, r *Recipe, base *made) ([]apt.Package, error) {
	if len(r.Packages) == 0 {
		return nil, nil
	}
	if err := k.lists(ctx, k.Update && !k.updated); err != nil {
		return nil, err
	}
	var present []apt.Package
	for b := base; b != nil; b = k.made[b.recipe.Base] {
		present = append(present, b.packages...)
	}
	packages, err := k.apt.Resolve(ctx, r.Packages, r.Assumed, present)
	if err != nil {
		return nil, fmt.Errorf("resolving the Debian packages %s: %w", strings.Join(r.Packages, ", "), err)
	}
	return packages, nil
}

// lists makes sure that there are lists of packages, and of today if force says so.
func (k *Kitchen) lists(ctx context.Context, force bool) error {
	if k.apt == nil {
		resolver, err := apt.New(filepath.Join(k.Cache, "apt"), debianArch())
		if err != nil {
			return err
		}
		k.apt = resolver
	}
	age, err := k.apt.Age(time.Now())
	if err == nil && age < listsAge && !force || k.updated {
		return nil
	}
	k.updated = true // or tried, which is enough for one run
	if updateErr := k.apt.Update(ctx); updateErr != nil {
		if err != nil || force {
			return updateErr
		}
		k.say("going on with lists of packages that are %.0f h old: %v", age.Hours(), updateErr)
	}
	return nil
}

func debianArch() string {
	if arch, ok := map[string]string{"arm": "armhf", "386": "i386", "ppc64le": "ppc64el"}[runtime.GOARCH]; ok {
		return arch
	}
	return runtime.GOARCH
}

// build compiles the programs of r.
func (k *Kitchen) build(ctx context.Context, r *Recipe) (programs map[string]string, err error) {
	if len(r.Programs) == 0 {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "images-programs-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	programs = map[string]string{}
	for _, p := range r.Programs {
		out := filepath.Join(dir, "program")
		cmd, err := k.compile(ctx, p, dir, out)
		if err != nil {
			return nil, err
		}
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: go build: %w\n%s", path.Join(p.Module, p.Dir), err, text)
		}
		binary, err := os.ReadFile(out)
		if err != nil {
			return nil, fmt.Errorf("building %s: %w", path.Join(p.Module, p.Dir), err)
		}
		programs[p.Path] = string(binary)
	}
	return programs, nil
}

// compile returns the command that makes the program p as the file out. For a module of
// others it writes, into the directory dir, a module that requires nothing but that one.
func (k *Kitchen) compile(ctx context.Context, p Program, dir, out string) (*exec.Cmd, error) {
	// No path, build id or commit in the binary: its bytes follow from the source alone.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+runtime.GOARCH, "GOWORK=off", "GOFLAGS=")
	if name, version, ok := strings.Cut(p.Module, "@"); ok {
		mod := fmt.Sprintf("module program\n\ngo 1.21\n\nrequire %s %s\n", name, version)
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600); err != nil {
			return nil, err
		}
		cmd.Args = append(cmd.Args, "-mod=mod", path.Join(name, p.Dir))
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
		cmd.Dir = dir
		return cmd, nil
	}
	if k.Root == "" {
		return nil, fmt.Errorf("building %s: run this inside the repository, or give --source", p.Dir)
	}
	cmd.Args = append(cmd.Args, ".")
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	cmd.Dir = filepath.Join(k.Root, p.Dir)
	return cmd, nil
}

// key is the digest of all an image is made from.
func key(m, base *made, programs map[string]string) (string, error) {
	h := sha256.New()
	for _, tree := range []fs.FS{sources, rootfs.Sources} {
		err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := fs.ReadFile(tree, name)
			fmt.Fprintf(h, "%s %d\n%s", name, len(text), text)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	inputs := struct {
		Name, Arch, Base   string
		Packages, Programs []string
	}{Name: m.recipe.Name, Arch: runtime.GOARCH}
	if base != nil {
		inputs.Base = base.key
	}
	for _, p := range m.packages {
		inputs.Packages = append(inputs.Packages, p.String())
	}
	for path, binary := range programs {
		inputs.Programs = append(inputs.Programs, fmt.Sprintf("%s %x", path, sha256.Sum256([]byte(binary))))
	}
	slices.Sort(inputs.Programs)
	if err := json.NewEncoder(h).Encode(inputs); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// find returns the image of m if the store has it under all its names, else nil.
func (k *Kitchen) find(m *made) (v1.Image, error) {
	images, err := k.Store.Images()
	if err != nil {
		return nil, err
	}
	have := map[string]store.Image{}
	for _, img := range images {
		have[img.Name] = img
	}
	for _, name := range m.recipe.Tags {
		if img, ok := have[name]; !ok || img.Key != m.key || !k.Store.Complete(img) {
			return nil, nil
		}
	}
	return k.Store.Image(have[m.recipe.Tags[0]], v1.Platform{OS: "linux", Architecture: runtime.GOARCH})
}

// cook makes the image of m and stores it.
func (k *Kitchen) cook(ctx context.Context, m, base *made) error {
	r := m.recipe
	img, err := k.empty(m)
	if err != nil {
		return err
	}
	lower := rootfs.New()
	config := r.Config
	if base != nil {
		if lower, err = k.tree(ctx, base); err != nil {
			return fmt.Errorf("base %s: %w", base.recipe.Name, err)
		}
		img = base.image
		old, err := img.ConfigFile()
		if err != nil {
			return err
		}
		config = inherit(config, old.Config)
	}
	tree, trees, err := k.trees(ctx, m, lower)
	if err != nil {
		return err
	}
	for _, t := range trees {
		mediaType := types.DockerLayer
		if r.OCI {
			mediaType = types.OCILayerZStd
		}
		layer, err := t.Layer(mediaType)
		if err != nil {
			return err
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: layer, MediaType: mediaType,
			History: v1.History{Created: created, CreatedBy: "examples/images " + r.Name},
		})
		if err != nil {
			return err
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.Config, file.Created, file.OS, file.Architecture = config, created, "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return err
	}
	m.image, m.tree = img, tree
	if !r.Index {
		return k.Store.Put(r.Tags, m.key, img)
	}
	index, err := asIndex(img)
	if err != nil {
		return err
	}
	return k.Store.Put(r.Tags, m.key, index)
}

func (k *Kitchen) empty(m *made) (v1.Image, error) {
	if !m.recipe.OCI {
		return empty.Image, nil
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	return mutate.ConfigMediaType(img, types.OCIConfigJSON), nil
}

// tree returns the file tree of a finished image.
func (k *Kitchen) tree(ctx context.Context, m *made) (*rootfs.Tree, error) {
	if m.tree != nil {
		return m.tree, nil
	}
	lower := rootfs.New()
	if base := k.made[m.recipe.Base]; base != nil {
		var err error
		if lower, err = k.tree(ctx, base); err != nil {
			return nil, err
		}
	}
	programs := k.programs
	defer func() { k.programs = programs }()
	var err error
	if k.programs, err = k.build(ctx, m.recipe); err != nil {
		return nil, err
	}
	m.tree, _, err = k.trees(ctx, m, lower)
	return m.tree, err
}

// trees runs the layers of m's recipe; it returns the last tree and all of them.
func (k *Kitchen) trees(ctx context.Context, m *made, lower *rootfs.Tree) (*rootfs.Tree, []*rootfs.Tree, error) {
	k.packages, k.skip = nil, m.recipe.Skip
	if len(m.packages) > 0 {
		var err error
		if k.packages, err = k.apt.Fetch(ctx, m.packages); err != nil {
			return nil, nil, fmt.Errorf("%w (are the lists of packages too old? --update fetches them)", err)
		}
	}
	tree := lower
	var trees []*rootfs.Tree
	for _, layer := range m.recipe.Layers {
		tree = tree.Above()
		if err := layer(k, tree); err != nil {
			return nil, nil, err
		}
		if err := tree.Err(); err != nil {
			return nil, nil, err
		}
		trees = append(trees, tree)
	}
	return tree, trees, nil
}

// unpack adds the packages at hand to the tree.
func (k *Kitchen) unpack(t *rootfs.Tree) error {
	for _, name := range k.packages {
		err := func() error {
			pkg, err := os.Open(name)
			if err != nil {
				return err
			}
			defer pkg.Close()
			return t.Unpack(pkg, k.keep)
		}()
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

// documentation is what a container does not read. Licences stay.
var documentation = []string{
	"/usr/share/bug", "/usr/share/doc", "/usr/share/doc-base", "/usr/share/groff", "/usr/share/info",
	"/usr/share/lintian", "/usr/share/linda", "/usr/share/locale", "/usr/share/man", "/lib/systemd", "/etc/init.d",
}

func (k *Kitchen) keep(name string) bool {
	if strings.HasPrefix(name, "/usr/share/doc/") && strings.HasSuffix(name, "/copyright") {
		return true
	}
	for _, prefix := range slices.Concat(documentation, k.skip) {
		if name == prefix || strings.HasPrefix(name, prefix+"/") {
			return false
		}
	}
	return true
}

// inherit fills what c leaves open from the base's configuration, as a build file does: an
// entrypoint of its own makes it forget the base's command.
func inherit(c, base v1.Config) v1.Config {
	env := slices.Clone(base.Env)
	for _, e := range c.Env {
		name, _, _ := strings.Cut(e, "=")
		env = slices.DeleteFunc(env, func(b string) bool { return strings.HasPrefix(b, name+"=") })
		env = append(env, e)
	}
	c.Env = env
	if c.Entrypoint == nil {
		c.Entrypoint = base.Entrypoint
		if c.Cmd == nil {
			c.Cmd = base.Cmd
		}
	}
	if c.WorkingDir == "" {
		c.WorkingDir = base.WorkingDir
	}
	return c
}

// asIndex makes an index of img as a build service publishes it: beside the image, an entry
// of no platform that holds a statement about it. A client has to pass that over.
func asIndex(img v1.Image) (v1.ImageIndex, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	const statementType = "application/vnd.in-toto+json"
	text, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v0.1",
		"predicateType": "https://slsa.dev/provenance/v0.2",
		"subject":       []any{map[string]any{"name": "image", "digest": map[string]string{"sha256": digest.Hex}}},
		"predicate":     map[string]any{"buildType": "examples/images"},
	})
	if err != nil {
		return nil, err
	}
	statement := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	statement, err = mutate.Append(statement, mutate.Addendum{Layer: static.NewLayer(text, statementType), MediaType: statementType})
	if err != nil {
		return nil, err
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
		mutate.IndexAddendum{Add: statement, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{
				"vnd.docker.reference.type":   "attestation-manifest",
				"vnd.docker.reference.digest": digest.String(),
			},
		}}), nil
}
