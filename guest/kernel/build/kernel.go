package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"strings"
	"syscall"
	"time"

	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/guest/kernel"
)

// sourcePackage is the Debian package that carries the kernel source.
const sourcePackage = "linux-source-6.12"

// releaseFile holds what uname -r says in a machine.
const releaseFile = "release"

// The recipe, in which $NAME stands for a directory or file of one build. It is
// part of the cache key as written here.
var (
	configure = [][]string{
		{"tar", "-xf", "$TARBALL", "-C", "$SOURCE", "--strip-components=1"},
		{"patch", "-d", "$SOURCE", "-p1", "--fuzz=0", "-i", "$PATCHES"},
		{"make", "-C", "$SOURCE", "O=$OBJECTS", "ARCH=$ARCH", "tinyconfig"},
		{"$SOURCE/scripts/kconfig/merge_config.sh", "-m", "-O", "$OBJECTS", "$OBJECTS/.config", "$FRAGMENT"},
		{"make", "-C", "$SOURCE", "O=$OBJECTS", "ARCH=$ARCH", "olddefconfig"},
	}
	compile = [][]string{
		{"make", "-C", "$SOURCE", "O=$OBJECTS", "ARCH=$ARCH", "-j$JOBS", "vmlinux"},
		{"strip", "-o", "$RESULT", "$OBJECTS/vmlinux"},
	}
	// What a kernel says of its making must not differ between two makings of one.
	environment = []string{
		"LC_ALL=C", "TZ=UTC",
		"KBUILD_BUILD_USER=stack", "KBUILD_BUILD_HOST=stack", "KBUILD_BUILD_VERSION=1",
		"KBUILD_BUILD_TIMESTAMP=Thu Jan 1 00:00:00 UTC 1970",
	}
)

// debs names the Debian package of each tool that the build calls.
var debs = map[string]string{
	"make": "make", "gcc": "gcc", "ld": "binutils", "strip": "binutils", "flex": "flex", "bison": "bison",
	"bc": "bc", "tar": "tar", "xz": "xz-utils", "patch": "patch", "mke2fs": "e2fsprogs",
}

// buildKernel returns the cached directory with the kernel, its final
// configuration and its release.
func buildKernel(ctx context.Context, c cache, source string, fragment []byte) (string, error) {
	patches, err := kernel.Patches()
	if err != nil {
		return "", err
	}
	inputs, err := kernelInputs(ctx, source, patches, fragment)
	if err != nil {
		return "", err
	}
	name := "kernel-" + digest(inputs)
	return c.once(ctx, name, func(dir string) error {
		if err := needTools("make", "gcc", "ld", "strip", "flex", "bison", "bc", "tar", "xz", "patch"); err != nil {
			return err
		}
		b := kernelBuild{
			source:   filepath.Join(dir, "source"),
			objects:  filepath.Join(dir, "objects"),
			logName:  filepath.Join(c.root, name+".log"),
			patches:  patches,
			fragment: fragment,
		}
		start := time.Now()
		fmt.Fprintf(c.log, "building the guest kernel, about 15 CPU minutes; log: %s\n", b.logName)
		if err := b.run(ctx, dir, source); err != nil {
			return err
		}
		fmt.Fprintf(c.log, "built the guest kernel in %s\n", time.Since(start).Round(time.Second))
		return os.WriteFile(filepath.Join(dir, "inputs"), inputs, 0o644)
	})
}

// kernelInputs is the text whose digest names a kernel: all that can make one
// differ from another, readable in the cached directory.
func kernelInputs(ctx context.Context, source string, patches, fragment []byte) ([]byte, error) {
	tarball, err := hashSource(source)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "arch %s\nsource %s sha256 %s\n", arch.name, filepath.Base(source), tarball)
	for _, tool := range []string{"gcc", "ld"} {
		if err := needTools(tool); err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, tool, "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("asking %s for its version: %w", tool, err)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		fmt.Fprintf(&b, "tool %s\n", first)
	}
	for _, step := range append(configure[:len(configure):len(configure)], compile...) {
		fmt.Fprintf(&b, "step %q\n", step)
	}
	fmt.Fprintf(&b, "environment %q\npatches %s\nfragment\n%s", environment, digest(patches), fragment)
	return []byte(b.String()), nil
}

func hashSource(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("kernel source: %w: apt-get install %s", err, sourcePackage)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("kernel source: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// needTools reports the tools that are missing, with the packages to install.
func needTools(tools ...string) error {
	var missing, packages []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
			packages = append(packages, debs[tool])
		}
	}
	if missing != nil {
		return fmt.Errorf("%s not found: apt-get install %s", strings.Join(missing, ", "), strings.Join(packages, " "))
	}
	return nil
}

// kernelBuild is one run of the recipe.
type kernelBuild struct {
	source, objects string // trees of gigabytes, gone when run returns
	logName         string // keeps the output of a build that failed
	patches         []byte
	fragment        []byte
}

// run leaves vmlinux, config and release in dir.
func (b kernelBuild) run(ctx context.Context, dir, tarball string) error {
	log, err := os.Create(b.logName)
	if err != nil {
		return err
	}
	defer log.Close()
	defer os.RemoveAll(b.source)
	defer os.RemoveAll(b.objects)
	for _, tree := range []string{b.source, b.objects} {
		if err := os.Mkdir(tree, 0o755); err != nil {
			return err
		}
	}
	fragment, patches := filepath.Join(b.objects, "fragment.config"), filepath.Join(b.objects, "patches")
	if err := os.WriteFile(fragment, b.fragment, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(patches, b.patches, 0o644); err != nil {
		return err
	}
	values := map[string]string{
		"TARBALL": tarball, "SOURCE": b.source, "OBJECTS": b.objects, "ARCH": arch.kernel, "FRAGMENT": fragment, "PATCHES": patches,
		"RESULT": filepath.Join(dir, guest.KernelFile), "JOBS": fmt.Sprint(goruntime.NumCPU()),
	}
	if err := b.steps(ctx, log, configure, values); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(b.objects, ".config"))
	if err != nil {
		return err
	}
	if err := b.check(config); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, guest.ConfigFile), config, 0o644); err != nil {
		return err
	}
	if err := b.steps(ctx, log, compile, values); err != nil {
		return err
	}
	release, err := os.ReadFile(filepath.Join(b.objects, "include/config/kernel.release"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, releaseFile), []byte(strings.TrimSpace(string(release))), 0o644); err != nil {
		return err
	}
	return os.Remove(b.logName)
}

// check compares the fragment with what became of it, and with the symbols that
// the source knows: one that no longer exists is "off", yet means nothing.
func (b kernelBuild) check(config []byte) error {
	asked, err := kernel.Parse(b.fragment)
	if err != nil {
		return fmt.Errorf("reading the configuration fragment: %w", err)
	}
	final, err := kernel.Parse(config)
	if err != nil {
		return fmt.Errorf("reading the kernel's configuration: %w", err)
	}
	faults := asked.Unmet(final)
	known, err := knownSymbols(b.source)
	if err != nil {
		return err
	}
	for name := range asked {
		if !known[name] {
			faults = append(faults, fmt.Sprintf("CONFIG_%s: this kernel has no such symbol", name))
		}
	}
	if faults != nil {
		return fmt.Errorf("the kernel cannot be configured as guest/kernel/config/%s.config asks:\n  %s", arch.name, strings.Join(faults, "\n  "))
	}
	return nil
}

var symbolDefinition = regexp.MustCompile(`(?m)^\s*(?:menu)?config\s+(\w+)\s*$`)

// knownSymbols reads the names that the Kconfig files of a source tree define.
func knownSymbols(source string) (map[string]bool, error) {
	known := map[string]bool{}
	err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasPrefix(d.Name(), "Kconfig") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range symbolDefinition.FindAllSubmatch(text, -1) {
			known[string(m[1])] = true
		}
		return nil
	})
	return known, err
}

// steps runs commands in order, their output into the log. An error ends with
// the log's last lines.
func (b kernelBuild) steps(ctx context.Context, log *os.File, commands [][]string, values map[string]string) error {
	for _, step := range commands {
		var args []string
		for _, word := range step {
			args = append(args, os.Expand(word, func(name string) string { return values[name] }))
		}
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = b.objects // merge_config.sh leaves temporary files where it is
		cmd.Stdout, cmd.Stderr = log, log
		// No variable of the caller's reaches the build: CROSS_COMPILE, KCFLAGS and
		// the like would make another kernel under the same key.
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.objects}, environment...)
		// make's children end with it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		fmt.Fprintf(log, "+ %s\n", strings.Join(args, " "))
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("kernel build: %s: %w; the end of %s:\n%s", filepath.Base(args[0]), err, b.logName, tail(b.logName, 20))
		}
	}
	return nil
}

// tail returns the last n lines of a file, as far as it can be read.
func tail(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, "  "+s.Text())
		if len(lines) > n {
			lines = lines[1:]
		}
	}
	return strings.Join(lines, "\n")
}
