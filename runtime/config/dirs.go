package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// Dirs are the directories in which everything of ours lives. None need exist.
type Dirs struct {
	Config string // what the user writes
	Data   string // images and volumes: large, worth keeping
	State  string // what runs now, logs, caches of verdicts
}

// FindDirs returns the directories the environment asks for: config, data and
// state in STACK_HOME, or else the three XDG directories.
func FindDirs() (Dirs, error) { return findDirs(os.Getenv, os.UserHomeDir) }

func findDirs(getenv func(string) string, userHome func() (string, error)) (Dirs, error) {
	if home := getenv("STACK_HOME"); home != "" {
		home, err := filepath.Abs(home)
		if err != nil {
			return Dirs{}, fmt.Errorf("STACK_HOME: %w", err)
		}
		return Dirs{filepath.Join(home, "config"), filepath.Join(home, "data"), filepath.Join(home, "state")}, nil
	}
	var err error
	xdg := func(name, inHome string) string {
		// The XDG specification has relative values ignored.
		dir := getenv(name)
		if !filepath.IsAbs(dir) {
			var home string
			if home, err = userHome(); err != nil {
				return ""
			}
			dir = filepath.Join(home, inHome)
		}
		return filepath.Join(dir, "stack")
	}
	d := Dirs{xdg("XDG_CONFIG_HOME", ".config"), xdg("XDG_DATA_HOME", ".local/share"), xdg("XDG_STATE_HOME", ".local/state")}
	if err != nil {
		return Dirs{}, fmt.Errorf("finding a place for images and volumes: %w; set HOME or STACK_HOME", err)
	}
	return d, nil
}

// RuntimeDir returns the directory of this user's sockets for d, and creates it.
// It is short whatever the home's length (a socket's path has 108 bytes on Linux,
// 104 on macOS), and outlives a log-out, which XDG_RUNTIME_DIR does not.
//
// /tmp is anybody's: a directory there that is a link, another user's, or open
// to others is refused.
func RuntimeDir(d Dirs) (string, error) {
	return runtimeDir("/tmp", d)
}

func runtimeDir(tmp string, d Dirs) (string, error) {
	base := filepath.Join(tmp, fmt.Sprintf("stack-%d", os.Getuid()))
	dir := filepath.Join(base, hashDirs(d))
	for _, dir := range []string{base, dir} {
		if err := privateDir(dir); err != nil {
			return "", fmt.Errorf("making a place for sockets: %w", err)
		}
	}
	return dir, nil
}

// hashDirs is equal for equal directories, by whichever links they are reached
// and whether or not they exist yet.
func hashDirs(d Dirs) string {
	h := sha256.New()
	for _, dir := range []string{d.Config, d.Data, d.State} {
		fmt.Fprintf(h, "%s\x00", resolveLinks(dir))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// resolveLinks resolves the part of an absolute path that exists.
func resolveLinks(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(resolveLinks(parent), filepath.Base(path))
}

// privateDir creates the directory, or makes sure that it is ours alone.
func privateDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	info, err := os.Lstat(dir) // never through a link
	if err != nil {
		return err
	}
	switch owner, known := ownerOf(info); {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory: remove it", dir)
	case !known || owner != os.Getuid():
		return fmt.Errorf("%s belongs to user %d, not to you: have it removed", dir, owner)
	case info.Mode().Perm() != 0o700:
		return os.Chmod(dir, 0o700) // ours, so only a umask or the user was here
	}
	return nil
}
