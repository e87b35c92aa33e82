package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stackvm/stack/guest"
)

// file is one that users get, its path below the prefix.
type file struct {
	path string
	mode fs.FileMode
	data []byte
}

const (
	docDir        = "share/doc/stack/"
	zshCompletion = "share/zsh/site-functions/_stack"
)

// collect builds the program and gathers everything that belongs to it, in the
// order of the paths.
func collect(work, version string, when time.Time, g *guest.Guest) ([]file, error) {
	program := filepath.Join(work, "stack")
	if err := build(program, version); err != nil {
		return nil, err
	}
	var files []file
	var faults []error
	add := func(path string, mode fs.FileMode, data []byte, err error) {
		files, faults = append(files, file{path, mode, data}), append(faults, err)
	}
	read := func(path string, mode fs.FileMode, from string) {
		data, err := os.ReadFile(from)
		add(path, mode, data, err)
	}
	read("bin/stack", 0o755, program)
	for shell, path := range map[string]string{
		"bash": "share/bash-completion/completions/stack",
		"zsh":  zshCompletion,
		"fish": "share/fish/vendor_completions.d/stack.fish",
	} {
		out, err := ask(program, when, "completion", shell)
		add(path, 0o644, out, err)
	}
	pages, err := manual(program, filepath.Join(work, "man"), when)
	faults = append(faults, err)
	files = append(files, pages...)
	read(docDir+"README.md", 0o644, "README.md")
	for from, to := range map[string]string{g.Dir: "lib/stack/guest/", "docs": docDir + "docs/", "examples/hello": docDir + "examples/hello/"} {
		entries, err := os.ReadDir(from)
		faults = append(faults, err)
		for _, e := range entries {
			if e.Type().IsRegular() {
				read(to+e.Name(), 0o644, filepath.Join(from, e.Name()))
			}
		}
	}
	licence, err := os.ReadFile("LICENSE")
	add(docDir+"copyright", 0o644, copyright(licence, g), err)
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	slices.SortFunc(files, byPath)
	return files, nil
}

// manual is the manual pages, packed as Debian wants them.
func manual(program, dir string, when time.Time) ([]file, error) {
	if _, err := ask(program, when, "system", "man", dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		var packed bytes.Buffer
		z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err == nil {
			_, err = z.Write(text)
		}
		if err := errors.Join(err, z.Close()); err != nil {
			return nil, err
		}
		files = append(files, file{"share/man/man1/" + e.Name() + ".gz", 0o644, packed.Bytes()})
	}
	return files, nil
}

// copyright says under which terms the parts come, and where the kernel's source
// is.
func copyright(licence []byte, g *guest.Guest) []byte {
	return fmt.Appendf(nil, `stack and the agent in lib/stack/guest/%s are under the Apache License 2.0, below. The
licences of the Go modules in them are in the modules that "go version -m" lists.

lib/stack/guest/%s is Linux %s, under the GNU General Public License version 2
(/usr/share/common-licenses/GPL-2 on Debian): the source of Debian's package linux-source-6.12,
unchanged, with the configuration in lib/stack/guest/%s, built as guest/kernel in stack's
source tree says.

%s`, guest.InitramfsFile, guest.KernelFile, strings.TrimSpace(g.Manifest.Kernel), guest.ConfigFile, licence)
}

// installedList names, below the prefix, the files that install wrote.
const installedList = "lib/stack/installed"

// install writes the files below prefix, each replaced in one step, so that a
// program that runs goes on, and last the list of them, for make uninstall.
func install(files []file, prefix string) error {
	var list strings.Builder
	for _, f := range files {
		fmt.Fprintln(&list, f.path)
	}
	fmt.Fprintln(&list, installedList)
	for _, f := range append(files[:len(files):len(files)], file{installedList, 0o644, []byte(list.String())}) {
		path := filepath.Join(prefix, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		next := path + ".new"
		err := os.WriteFile(next, f.data, f.mode)
		if err == nil {
			err = os.Chmod(next, f.mode) // whatever the umask
		}
		if err == nil {
			err = os.Rename(next, path)
		}
		if err != nil {
			return errors.Join(err, os.RemoveAll(next))
		}
	}
	return nil
}
