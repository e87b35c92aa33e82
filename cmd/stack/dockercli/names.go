package dockercli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// keptSuffix is added to what stood under a name before.
const keptSuffix = ".before-stack"

// Names are the places where the program is found under docker's names.
type Names struct {
	Program string // the stack that is to answer
	Bin     string // directory of PATH, for docker-compose
	Plugins string // directory of docker's plugins, for docker compose
}

// DefaultNames are this user's places, or the machine's for root.
func DefaultNames(program string, getenv func(string) string) (Names, error) {
	if os.Getuid() == 0 {
		return Names{program, "/usr/local/bin", "/usr/local/lib/docker/cli-plugins"}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return Names{}, fmt.Errorf("finding docker's plugins: %w", err)
	}
	return Names{program, filepath.Join(home, ".local", "bin"), filepath.Join(configDir(getenv, home), "cli-plugins")}, nil
}

func (n Names) paths() []string {
	return []string{filepath.Join(n.Bin, Name), filepath.Join(n.Plugins, Name)}
}

// Take puts links to the program under both names. Another program there is an
// error that changes nothing, unless force is set: then it is kept beside, for
// Give to bring back.
func (n Names) Take(force bool) error {
	var foreign []string
	var faults *multierror.Error
	for _, path := range n.paths() {
		switch ours, err := n.ours(path); {
		case errors.Is(err, fs.ErrNotExist) || ours:
		case err != nil:
			faults = multierror.Append(faults, err)
		case !force:
			faults = multierror.Append(faults, fmt.Errorf("%s is another program's: with --force it is kept as %s%s", path, filepath.Base(path), keptSuffix))
		default:
			if _, err := os.Lstat(path + keptSuffix); !errors.Is(err, fs.ErrNotExist) {
				faults = multierror.Append(faults, fmt.Errorf("%s is another program's, and %s%s is there already: remove one of them", path, filepath.Base(path), keptSuffix))
			}
			foreign = append(foreign, path)
		}
	}
	if err := faults.ErrorOrNil(); err != nil {
		return err
	}
	for _, path := range foreign {
		if err := os.Rename(path, path+keptSuffix); err != nil {
			return err
		}
	}
	for _, path := range n.paths() {
		if err := n.link(path); err != nil {
			return fmt.Errorf("making %s: %w", path, err)
		}
	}
	return nil
}

// Give removes the links and brings back what stood there before. What is not
// this program's stays.
func (n Names) Give() error {
	var faults *multierror.Error
	for _, path := range n.paths() {
		switch ours, err := n.ours(path); {
		case errors.Is(err, fs.ErrNotExist): // removed by hand
		case err != nil:
			faults = multierror.Append(faults, err)
			continue
		case !ours:
			continue
		default:
			if err := os.Remove(path); err != nil {
				faults = multierror.Append(faults, err)
				continue
			}
		}
		if err := os.Rename(path+keptSuffix, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = multierror.Append(faults, err)
		}
	}
	return faults.ErrorOrNil()
}

// ours reports whether path is a link to the program, there or not any more.
func (n Names) ours(path string) (bool, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return false, nil
	}
	to, err := os.Readlink(path)
	if err != nil {
		return false, err
	}
	if !filepath.IsAbs(to) {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return false, err
		}
		to = filepath.Join(dir, to)
	}
	return resolve(to) == resolve(n.Program), nil
}

// resolve is the path without links as far as that is known.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// link leads path to the program. Where both are below one directory the link is
// relative, so that a tree made for a package can be moved.
func (n Names) link(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return err
	}
	to, err := filepath.EvalSymlinks(n.Program)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(dir, to); err == nil && !strings.HasPrefix(rel, upToRoot(dir)) {
		to = rel
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(to, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// upToRoot is the relative path from an absolute directory to the root.
func upToRoot(dir string) string {
	return strings.Repeat("../", strings.Count(dir, "/"))
}
