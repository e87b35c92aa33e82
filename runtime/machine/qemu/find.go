//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// Binary is the QEMU that machines run in.
type Binary struct {
	Path    string
	Version string   // "7.2.22"
	Data    []string // directories of its firmware
}

const (
	program = "qemu-system-x86_64"

	// Least version: -netdev dgram is of 7.2.
	leastMajor, leastMinor = 7, 2

	findTimeout = 20 * time.Second // of --version, on a host under load
)

// ErrNoQEMU is returned when there is no QEMU, or an older one than needed.
var ErrNoQEMU = errors.New("no usable QEMU")

// Find looks for QEMU once and remembers what it found.
func (d *Driver) Find(ctx context.Context) (Binary, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.binary.Path != "" {
		return d.binary, nil
	}
	b, err := Find(ctx, d.opt.Binary)
	if err == nil {
		d.binary = b
	}
	return b, err
}

// Find asks the QEMU at path, or the one in PATH, for its version.
func Find(ctx context.Context, path string) (Binary, error) {
	if path == "" {
		found, err := exec.LookPath(program)
		if err != nil {
			return Binary{}, fmt.Errorf("%w: %s is not in PATH: install the package that has it: "+
				"qemu-system-x86 (Debian, Ubuntu), qemu-system-x86-core (Fedora), qemu-system-x86 (Arch, Alpine: qemu-system-x86_64)", ErrNoQEMU, program)
		}
		path = found
	}
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path) // what Landlock is to allow is a file
	}
	if err != nil {
		return Binary{}, fmt.Errorf("%w: %w", ErrNoQEMU, err)
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return Binary{}, fmt.Errorf("%w: %s --version: %w", ErrNoQEMU, path, err)
	}
	version, err := parseVersion(string(out))
	if err != nil {
		return Binary{}, fmt.Errorf("%w: %s: %w", ErrNoQEMU, path, err)
	}
	return Binary{Path: path, Version: version, Data: dataDirs(path)}, nil
}

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d{1,4})\.(\d{1,4})(\.\d{1,4})?`)

// parseVersion reads the first line of --version and refuses what is too old.
func parseVersion(out string) (string, error) {
	f := versionLine.FindStringSubmatch(out)
	if f == nil {
		return "", errors.New("its --version is not QEMU's")
	}
	major, _ := strconv.Atoi(f[1]) // digits, at most four
	minor, _ := strconv.Atoi(f[2])
	version := f[1] + "." + f[2] + f[3]
	if major < leastMajor || (major == leastMajor && minor < leastMinor) {
		return "", fmt.Errorf("version %s is too old: %d.%d is the least", version, leastMajor, leastMinor)
	}
	return version, nil
}

// dataDirs are where a QEMU may have its firmware: beside itself, or where
// distributions put what it links to.
func dataDirs(path string) []string {
	prefix := filepath.Dir(filepath.Dir(path))
	return []string{
		filepath.Join(prefix, "share", "qemu"), filepath.Join(prefix, "share", "qemu-firmware"),
		"/usr/share/qemu", "/usr/share/seabios", "/usr/share/qboot", "/usr/share/ipxe", "/usr/lib/ipxe",
	}
}
