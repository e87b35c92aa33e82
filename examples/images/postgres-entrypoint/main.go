package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// serviceUser is whom root makes the data over to.
const serviceUser = "postgres"

func main() {
	// It returns only when it could not become the server.
	fmt.Fprintln(os.Stderr, "postgres-entrypoint:", run(os.Args[1:]))
	os.Exit(1)
}

// run does what the arguments ask for, and returns on errors only.
func run(args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		args = append([]string{"postgres"}, args...) // options alone are the server's
	}
	if args[0] == "postgres" && !wantsHelp(args[1:]) {
		if err := prepare(args[1:]); err != nil {
			return err
		}
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("starting %q: %w", args[0], err)
	}
	return fmt.Errorf("starting %s: %w", program, syscall.Exec(program, args, os.Environ()))
}

// wantsHelp says whether the server is only asked something, for which it needs no data.
func wantsHelp(args []string) bool {
	for _, a := range args {
		switch a {
		case "-?", "--help", "--describe-config", "-V", "--version", "-C":
			return true
		}
	}
	return false
}

// prepare leaves this process as the owner of a complete cluster.
func prepare(serverArgs []string) error {
	set, err := readSettings(os.LookupEnv, os.ReadFile)
	if err != nil {
		return err
	}
	if err := set.directories(); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := become(serviceUser); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(set.data, "PG_VERSION")); err == nil {
		if _, err := os.Stat(filepath.Join(set.data, unfinished)); err == nil {
			return fmt.Errorf("the cluster in %s was not finished: an earlier start failed in the middle. Remove what is in it to begin anew", set.data)
		}
		fmt.Println("postgres-entrypoint: the cluster exists, nothing to prepare")
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for a cluster: %w", err)
	}
	return set.create(serverArgs)
}

// directories makes the directories of the data, and, as root, makes them over to the service.
func (s *settings) directories() error {
	uid, gid := -1, -1
	if os.Getuid() == 0 {
		var err error
		if uid, gid, err = ids(serviceUser); err != nil {
			return err
		}
	}
	private := []string{s.data}
	if s.walDir != "" {
		private = append(private, s.walDir)
	}
	for _, dir := range private {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the directory of the data: %w", err)
		}
		// What initdb wants. Whoever may not do it hears from initdb why it matters.
		_ = os.Chmod(dir, 0o700)
		if uid < 0 {
			continue
		}
		if err := makeOver(dir, uid, gid); err != nil {
			return fmt.Errorf("making %s over to %s: %w: PostgreSQL cannot run where files have no owners of their own; use a named volume", dir, serviceUser, err)
		}
	}
	// For the socket: sticky, for any user.
	if err := os.MkdirAll("/var/run/postgresql", 0o755); err != nil {
		return fmt.Errorf("making the directory of the socket: %w", err)
	}
	if uid >= 0 {
		if err := makeOver("/var/run/postgresql", uid, gid); err != nil {
			return fmt.Errorf("making over the directory of the socket: %w", err)
		}
	}
	return nil
}

// makeOver gives dir and all in it that is another's to the user.
func makeOver(dir string, uid, gid int) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid {
			return nil
		}
		return os.Lchown(name, uid, gid)
	})
}

func ids(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("finding the user %s: %w", name, err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(uidErr, gidErr)
}

// become gives up root for good.
func become(name string) error {
	uid, gid, err := ids(name)
	if err != nil {
		return err
	}
	// In this order: without root neither of the first two is allowed.
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("becoming %s: groups: %w", name, err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("becoming %s: group: %w", name, err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("becoming %s: user: %w", name, err)
	}
	if u, err := user.Lookup(name); err == nil {
		return os.Setenv("HOME", u.HomeDir)
	}
	return nil
}
