package recipe

import (
	"embed"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// sources are what a recipe is besides its inputs: a change here makes every image anew.
//
//go:embed *.go files
var sources embed.FS

//go:embed files
var files embed.FS

// Recipe says how one image is made.
type Recipe struct {
	Name     string   // what people call it on the command line
	Tags     []string // repository and tag in full, the first being the usual one
	About    string   // one line
	Base     string   // recipe whose layers are below; "" for none
	Packages []string // Debian packages
	Assumed  []string // packages that those depend on and that the image does without
	Skip     []string // absolute paths, with all below them, that are not unpacked
	Programs []Program
	Config   v1.Config // of the image; without it, the base's
	Index    bool      // published as an index, as the registry's official images are
	OnDemand bool      // made only when it is named
	OCI      bool      // media types of OCI, layers in zstd; else Docker's, in gzip

	// Layers make one layer each.
	Layers []func(*Kitchen, *rootfs.Tree) error
}

// Program is a Go program: of this repository, and then a static binary, or of a module of
// others, which may need cgo.
type Program struct {
	Module string // module@version; "" is this repository
	Dir    string // of its main package, below the root of the module
	Path   string // in the image
}

// recipes in the order in which list shows them; a base comes before what stands on it.
var recipes = []*Recipe{
	debian, busybox, alpine, nginx, redis, postgres, mariadb, memcached, tool, layers, threeTierApp,
	php, wordpress, nextcloud, pgadmin, python, node, prometheus, alertmanager, nodeExporter, grafana, tinyTools, votingVote, votingWorker, votingResult, fabricCA, bench,
}

// Names returns the names of all recipes.
func Names() []string {
	var names []string
	for _, r := range recipes {
		names = append(names, r.Name)
	}
	return names
}

// Usual returns the names of the recipes that are made when none is named.
func Usual() []string {
	var names []string
	for _, r := range recipes {
		if !r.OnDemand {
			names = append(names, r.Name)
		}
	}
	return names
}

// Find returns the recipe called name, or whose image is called name as compose files do:
// "postgres", "postgres:15".
func Find(name string) (*Recipe, error) {
	full := name
	if !strings.Contains(full, "/") {
		full = "library/" + full
	}
	for _, r := range recipes {
		if r.Name == name || slices.Contains(r.Tags, full) {
			return r, nil
		}
	}
	return nil, fmt.Errorf("image %q has no recipe: there are %s", name, strings.Join(Names(), ", "))
}

// file returns one of the embedded files.
func file(name string) string {
	text, err := files.ReadFile("files/" + name)
	if err != nil {
		panic(err) // a recipe names a file that was not committed with it
	}
	return string(text)
}

// Attributes that most files have.
var (
	plain      = rootfs.Attr{Mode: 0o644}
	executable = rootfs.Attr{Mode: 0o755}
)

// unpack makes the layer of the recipe's packages.
func unpack(k *Kitchen, t *rootfs.Tree) error { return k.unpack(t) }

// install makes the layer of the recipe's programs.
func install(k *Kitchen, t *rootfs.Tree) error {
	for path, binary := range k.programs {
		t.File(path, binary, executable)
	}
	return t.Err()
}
