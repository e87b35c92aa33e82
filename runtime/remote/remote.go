package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/stackvm/stack/runtime/image/registry"
	"github.com/stackvm/stack/spec"
)

// Bounds on a copy. What a compose file needs is far smaller; what a repository
// holds beside it is fetched too.
const (
	maxEntries   = 100_000
	maxBytes     = 1 << 30
	maxPath      = 4096     // bytes of a path below the copy
	maxFileBytes = 16 << 20 // of a file of an artifact
	maxLayers    = 256      // of an artifact
)

// Options are what Files works with.
type Options struct {
	Dir    string              // where copies are kept; made when needed
	Getenv func(string) string // for COMPOSE_EXPERIMENTAL_GIT_REMOTE and _OCI_REMOTE

	// Registry returns a client with the credentials for a repository, which
	// Files closes.
	Registry func(ctx context.Context, repo registry.Repository) (*registry.Client, error)

	// Fetching, if not nil, is told of each copy before it is made, which may take
	// long. What it returns is called when it is made, or is not.
	Fetching func(name string) (end func(made bool))
}

// Files fetches compose files. It is a spec.Remote.
type Files struct{ opt Options }

// New returns Files.
func New(opt Options) *Files { return &Files{opt} }

// Accepts tells whether a name is of a file elsewhere, as opposed to a path.
func (*Files) Accepts(name string) bool { return Accepts(name) }

// Fetch returns a local copy of what a name that Accepts takes stands for now; or
// if any is set, the one that was last fetched by that name, if it is still there.
// Its error names it, without a password.
func (f *Files) Fetch(ctx context.Context, name string, any bool) (spec.Fetched, error) {
	if rest, ok := strings.CutPrefix(name, ociScheme); ok {
		if err := f.enabled("OCI", "COMPOSE_EXPERIMENTAL_OCI_REMOTE"); err != nil {
			return spec.Fetched{}, err
		}
		got, err := f.artifact(ctx, rest, any)
		if err != nil {
			err = fmt.Errorf("compose file %q: %w", name, err)
		}
		return got, err
	}
	if err := f.enabled("git", "COMPOSE_EXPERIMENTAL_GIT_REMOTE"); err != nil {
		return spec.Fetched{}, err
	}
	g, err := ParseGit(name)
	if err != nil {
		return spec.Fetched{}, fmt.Errorf("compose file %q: %w", Shown(name), err)
	}
	got, err := f.repository(ctx, g, any)
	if err != nil {
		err = fmt.Errorf("compose file %q: %w", g.String(), err)
	}
	return got, err
}

// enabled reads docker compose's switches: both kinds are on unless turned off.
func (f *Files) enabled(kind, variable string) error {
	v := f.opt.Getenv(variable)
	if v == "" {
		return nil
	}
	on, err := strconv.ParseBool(v)
	switch {
	case err != nil:
		return fmt.Errorf("%s environment variable expects boolean value: %w", variable, err)
	case !on:
		return fmt.Errorf("%s remote resource is disabled by %q", kind, variable)
	}
	return nil
}

// kept returns the directory of a copy, and whether it is there.
func (f *Files) kept(kind, id string) (string, bool) {
	dir := filepath.Join(f.opt.Dir, kind, id)
	info, err := os.Stat(dir)
	return dir, err == nil && info.IsDir()
}

// last returns the id of the copy that was last fetched by a name, "" if none is
// known or it is gone.
func (f *Files) last(kind, name string) string {
	id, err := os.ReadFile(f.lastFile(kind, name))
	if err != nil || strings.ContainsAny(string(id), "./") {
		return ""
	}
	if _, there := f.kept(kind, string(id)); !there {
		return ""
	}
	return string(id)
}

// lastFile is where last looks; the name, which may be long, is not in it.
func (f *Files) lastFile(kind, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(f.opt.Dir, kind+"-names", hex.EncodeToString(sum[:]))
}

// remember is for last. One that gets lost costs a question.
func (f *Files) remember(kind, name, id string) error {
	if f.last(kind, name) == id {
		return nil
	}
	file := f.lastFile(kind, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return err
	}
	_, err = tmp.WriteString(id)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// keep makes a copy of what name stands for by fill, which gets the empty
// directory for it and one beside it for its own use. Of two at a time, one stays.
func (f *Files) keep(name, dir string, fill func(root *os.Root, scratch string) error) (err error) {
	if f.opt.Fetching != nil {
		end := f.opt.Fetching(name)
		defer func() { end(err == nil) }()
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := f.sweep(); err != nil {
		return err
	}
	stage, err := os.MkdirTemp(f.opt.Dir, fmt.Sprintf("%s%d-", staging, os.Getpid()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	tree := filepath.Join(stage, "tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := fill(root, filepath.Join(stage, "scratch")); err != nil {
		return err
	}
	// What has its final name is whole, also after a power failure.
	if err := flush(tree); err != nil {
		return err
	}
	if err := os.Rename(tree, dir); err != nil {
		if _, there := os.Stat(dir); there == nil {
			return nil
		}
		return err
	}
	return flush(filepath.Dir(dir))
}

// staging begins the names of directories in which copies are made; the number of
// the process follows.
const staging = ".fetching-"

// sweep removes what a process left that was killed.
func (f *Files) sweep() error {
	left, err := filepath.Glob(filepath.Join(f.opt.Dir, staging+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), staging), "-")
		if pid, err := strconv.Atoi(text); err != nil || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// composeFile finds the file in a copy: name itself, or what a directory of that
// name has under one of compose's names.
func composeFile(copied, name string) (string, error) {
	root, err := os.OpenRoot(copied)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if name == "" {
		name = "."
	}
	info, err := root.Stat(filepath.FromSlash(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("there is no %s in it", name)
	case err != nil:
		return "", err
	case !info.IsDir():
		return filepath.ToSlash(filepath.Clean(name)), nil
	}
	for _, candidate := range spec.FileNames {
		file := filepath.Join(filepath.FromSlash(name), candidate)
		if info, err := root.Stat(file); err == nil && info.Mode().IsRegular() {
			return filepath.ToSlash(file), nil
		}
	}
	where := "it"
	if name != "." {
		where = "its " + name
	}
	return "", fmt.Errorf("there is no compose file in %s: name it after a colon, or call it one of %s", where, strings.Join(spec.FileNames, ", "))
}
