package recipe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/apt"
	"github.com/stackvm/stack/examples/images/deb/debtest"
	"github.com/stackvm/stack/examples/images/rootfs"
	"github.com/stackvm/stack/examples/images/store"
)

// archive is a Debian archive of a few packages, each with one program of its name.
type archive struct {
	dir      string
	versions map[string]string // by package
	updates  int
	updated  bool
}

func (a *archive) Age(time.Time) (time.Duration, error) {
	if !a.updated {
		return 0, os.ErrNotExist
	}
	return time.Hour, nil
}

func (a *archive) Update(context.Context) error {
	a.updated = true
	a.updates++
	return nil
}

func (a *archive) Resolve(_ context.Context, names, assumed []string, present []apt.Package) ([]apt.Package, error) {
	var packages []apt.Package
	for _, name := range names {
		version, ok := a.versions[name]
		if !ok {
			return nil, errors.New("Unable to locate package " + name)
		}
		p := apt.Package{Name: name, Version: version, Arch: "all", File: name + "_" + version + "_all.deb"}
		if !slices.Contains(assumed, name) && !slices.Contains(present, p) {
			packages = append(packages, p)
		}
	}
	return packages, nil
}

func (a *archive) Fetch(_ context.Context, packages []apt.Package) ([]string, error) {
	var paths []string
	for _, p := range packages {
		data := debtest.Tar(
			debtest.Dir("./usr/"), debtest.Dir("./usr/bin/"), debtest.File("./usr/bin/"+p.Name, p.String(), 0o755),
			debtest.File("./usr/share/doc/"+p.Name+"/copyright", "free", 0o644),
			debtest.File("./usr/share/doc/"+p.Name+"/README", "long", 0o644),
			debtest.File("./usr/lib/skipped/"+p.Name, "", 0o644),
		)
		path := filepath.Join(a.dir, p.File)
		if err := os.WriteFile(path, debtest.Package(p.Name, data), 0o600); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// testKitchen has an archive and two recipes of its own.
func testKitchen(t *testing.T) (k *Kitchen, a *archive, base, top *Recipe, said *[]string) {
	t.Helper()
	base = &Recipe{
		Name: "test-base", Tags: []string{"test/base:1"}, Packages: []string{"shell"}, Skip: []string{"/usr/lib/skipped"}, Index: true,
		Config: v1.Config{Env: []string{"PATH=/bin", "A=base"}, Cmd: []string{"shell"}, WorkingDir: "/work"},
		Layers: []func(*Kitchen, *rootfs.Tree) error{unpack},
	}
	top = &Recipe{
		Name: "test-top", Tags: []string{"test/top:2", "test/top:latest"}, Base: "test-base", Packages: []string{"shell", "server", "extra"}, Assumed: []string{"extra"},
		Config: v1.Config{Env: []string{"A=top"}, Entrypoint: []string{"server"}},
		Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, tree *rootfs.Tree) error {
			tree.File("/etc/server.conf", "on", plain)
			return nil
		}},
	}
	saved := recipes
	recipes = append(slices.Clone(recipes), base, top)
	t.Cleanup(func() { recipes = saved })

	s, err := store.Open(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	a = &archive{dir: t.TempDir(), versions: map[string]string{"shell": "1:1", "server": "2", "extra": "3"}}
	said = new([]string)
	k = &Kitchen{Store: s, apt: a, Say: func(format string, args ...any) { *said = append(*said, fmt.Sprintf(format, args...)) }}
	return k, a, base, top, said
}

// again returns a kitchen that remembers nothing but the store.
func (k *Kitchen) again() *Kitchen { return &Kitchen{Store: k.Store, apt: k.apt, Say: k.Say} }

func digests(t *testing.T, img v1.Image) []string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d.String())
	}
	return all
}

func TestMake(t *testing.T) {
	k, a, base, top, said := testKitchen(t)
	first, err := k.Make(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	if len(*said) != 2 || a.updates != 1 {
		t.Errorf("made %q with %d updates", *said, a.updates)
	}
	platform := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	img, err := k.Store.Image(first, platform)
	if err != nil {
		t.Fatal(err)
	}
	baseImage, err := k.Make(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	below, err := k.Store.Image(baseImage, platform)
	if err != nil {
		t.Fatal(err)
	}
	layers := digests(t, img)
	if len(layers) != 3 || layers[0] != digests(t, below)[0] {
		t.Errorf("layers %v do not stand on %v", layers, digests(t, below))
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v1.Config{Env: []string{"PATH=/bin", "A=top"}, Entrypoint: []string{"server"}, WorkingDir: "/work"}, config.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	tree := k.made[top.Name].tree
	for name, want := range map[string]bool{
		"/usr/bin/shell": true, "/usr/bin/server": true, "/usr/bin/extra": false, "/etc/server.conf": true,
		"/usr/share/doc/shell/copyright": true, "/usr/share/doc/shell/README": false,
		"/usr/lib/skipped/shell": false, "/usr/lib/skipped/server": true,
	} {
		if got := tree.Exists(name); got != want {
			t.Errorf("%s exists: %v", name, got)
		}
	}

	// The same again: nothing is made, and what is there has every name.
	*said = nil
	second, err := k.again().Make(t.Context(), top)
	if err != nil || second.Descriptor.Digest != first.Descriptor.Digest || len(*said) != 0 {
		t.Errorf("made again %q: %v", *said, err)
	}
	images, err := k.Store.Images()
	if err != nil || len(images) != 3 {
		t.Errorf("%d images: %v", len(images), err)
	}

	// Elsewhere, from the same inputs: the same bytes.
	other, _, _, _, _ := testKitchen(t)
	elsewhere, err := other.Make(t.Context(), top)
	if err != nil || elsewhere.Descriptor.Digest != first.Descriptor.Digest {
		t.Errorf("%s here, %s there: %v", first.Descriptor.Digest, elsewhere.Descriptor.Digest, err)
	}

	// A new version of one package makes that image anew, and leaves its base.
	*said, a.versions["server"] = nil, "2.1"
	third, err := k.again().Make(t.Context(), top)
	if err != nil || third.Descriptor.Digest == first.Descriptor.Digest || len(*said) != 1 || !strings.Contains((*said)[0], "test/top:2") {
		t.Errorf("after an update made %q: %v", *said, err)
	}
	// Of the base, both.
	*said, a.versions["shell"] = nil, "1:2"
	if _, err := k.again().Make(t.Context(), top); err != nil || len(*said) != 2 {
		t.Errorf("after an update of the base made %q: %v", *said, err)
	}
}

func TestMakeRepairs(t *testing.T) {
	k, _, base, _, said := testKitchen(t)
	img, err := k.Make(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := k.Store.Blob(img.Descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	blob.Close()
	if err := os.Remove(blob.Name()); err != nil {
		t.Fatal(err)
	}
	*said = nil
	again, err := k.again().Make(t.Context(), base)
	if err != nil || again.Descriptor.Digest != img.Descriptor.Digest || len(*said) != 1 || !k.Store.Complete(again) {
		t.Errorf("made %q: %v", *said, err)
	}
}

func TestMakeFaults(t *testing.T) {
	k, a, _, top, _ := testKitchen(t)
	delete(a.versions, "shell")
	_, err := k.Make(t.Context(), top)
	if err == nil || !strings.Contains(err.Error(), "image test-top: base test-base: resolving the Debian packages shell: Unable to locate package shell") {
		t.Errorf("missing package: %v", err)
	}
	program := &Recipe{Name: "p", Tags: []string{"p/p:1"}, Programs: []Program{{Dir: "examples/none", Path: "/p"}}}
	if _, err := k.Make(t.Context(), program); err == nil || !strings.Contains(err.Error(), "--source") {
		t.Errorf("program without the repository: %v", err)
	}
}

func TestFind(t *testing.T) {
	for name, want := range map[string]string{
		"postgres": "postgres", "postgres:15": "postgres", "library/postgres:15": "postgres",
		"fixture/tool:1": "tool", "debian:bookworm": "debian", "postgres:9": "", "nothing": "",
	} {
		r, err := Find(name)
		if want == "" && err == nil || want != "" && (err != nil || r.Name != want) {
			t.Errorf("Find(%q) = %v, %v", name, r, err)
		}
	}
}

// TestRecipes checks what every recipe must keep to.
func TestRecipes(t *testing.T) {
	seen := map[string]string{}
	for i, r := range recipes {
		if r.Base != "" && !slices.ContainsFunc(recipes[:i], func(b *Recipe) bool { return b.Name == r.Base }) {
			t.Errorf("%s comes before its base %s", r.Name, r.Base)
		}
		if len(r.Layers) == 0 || r.About == "" || len(r.Tags) == 0 {
			t.Errorf("%s is incomplete", r.Name)
		}
		for _, tag := range r.Tags {
			if other := seen[tag]; other != "" {
				t.Errorf("%s and %s are both %s", r.Name, other, tag)
			}
			seen[tag] = r.Name
			if repository, version, ok := strings.Cut(tag, ":"); !ok || version == "" || !strings.Contains(repository, "/") {
				t.Errorf("%s: tag %q is not in full", r.Name, tag)
			}
		}
		for _, p := range r.Programs {
			if _, version, _ := strings.Cut(p.Module, "@"); p.Module != "" && version == "" {
				t.Errorf("%s: module %q has no version", r.Name, p.Module)
			} else if p.Module != "" {
				continue
			}
			if _, err := os.Stat(filepath.Join("../../..", p.Dir, "doc.go")); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
		}
	}
}

func TestShadowed(t *testing.T) {
	passwd, shadow := shadowed("root:*:0:0:root:/root:/bin/bash\n")
	if passwd != "root:x:0:0:root:/root:/bin/bash\n" || shadow != "root:*:10957:0:99999:7:::\n" {
		t.Errorf("%q, %q", passwd, shadow)
	}
	group, gshadow := shadowed("staff:*:50:a,b\n")
	if group != "staff:x:50:a,b\n" || gshadow != "staff:*::a,b\n" {
		t.Errorf("%q, %q", group, gshadow)
	}
}
