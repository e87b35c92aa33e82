package spec

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/compose-spec/compose-go/v2/cli"
)

// FileNames are what a compose file may be called where only its directory is
// named, in the order in which they are looked for.
var FileNames = cli.DefaultFileNames

// Remote fetches the compose files that lie elsewhere, which -f, include and
// extends may name.
type Remote interface {
	// Accepts tells whether a name is of such a file, and not a path.
	Accepts(name string) bool
	// Fetch returns a local copy, of what the name stands for now; or if any is
	// set, and an earlier run has made one, that one. Its error names the file.
	Fetch(ctx context.Context, name string, any bool) (Fetched, error)
}

// Fetched is the local copy of a compose file. What is relative in it is
// relative to the copy's directory.
type Fetched struct {
	File string // absolute path
	Name string // a project's, if neither the user nor the file gives one
}

// resources is a Remote in the form compose-go wants. It asks once for each name:
// all of a run works on one state of what lies elsewhere.
type resources struct {
	remote Remote
	any    bool // an earlier run's copies will do

	mu  sync.Mutex // held while fetching: one at a time
	got map[string]fetch
}

type fetch struct {
	Fetched
	err error
}

func newResources(r Remote, any bool) *resources {
	return &resources{remote: r, any: any, got: map[string]fetch{}}
}

// Accept is Remote's Accepts; nothing lies elsewhere without a Remote.
func (r *resources) Accept(name string) bool { return r.remote != nil && r.remote.Accepts(name) }

func (r *resources) fetch(ctx context.Context, name string) (Fetched, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.got[name]
	if !ok {
		f.Fetched, f.err = r.remote.Fetch(ctx, name, r.any)
		if ctx.Err() == nil {
			r.got[name] = f
		}
	}
	return f.Fetched, f.err
}

// Load returns the path of the local copy.
func (r *resources) Load(ctx context.Context, name string) (string, error) {
	f, err := r.fetch(ctx, name)
	return f.File, err
}

// Dir returns what is relative to what: of a file's name or its copy the copy's
// directory, of the directory that an include gives that one.
func (r *resources) Dir(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, ok := r.got[name]; ok {
		return filepath.Dir(f.File)
	}
	for _, f := range r.got {
		if f.File == name {
			return filepath.Dir(name)
		}
	}
	return name
}
