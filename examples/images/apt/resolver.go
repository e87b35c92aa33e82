package apt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Package is one binary package at one version. Its text form is the identity of the
// package in the archive.
type Package struct {
	Name, Version, Arch string
	File                string // name of the file in the download directory
}

func (p Package) String() string { return p.Name + "=" + p.Version + ":" + p.Arch }

// Resolver answers which packages a set of names needs, and downloads them. Use it from
// one goroutine, and one process at a time: it locks nothing.
type Resolver struct {
	dir  string // lists, downloads, configuration
	arch string // as Debian calls it
}

// New returns a resolver that keeps its state in dir and answers for a Debian
// architecture, such as "amd64".
func New(dir, arch string) (*Resolver, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, fmt.Errorf("images are made from Debian packages, which needs a Debian host: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, "\"\\;\n") {
		return nil, fmt.Errorf("directory %q has a character that apt's configuration cannot hold", dir)
	}
	for _, sub := range []string{"lists/partial", "none/partial", "archives"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("making apt's directories: %w", err)
		}
	}
	r := &Resolver{dir: dir, arch: arch}
	// The host's own configuration is read first, so its proxies and sources hold; its hooks
	// are taken out, because they work on the host's state.
	config := fmt.Sprintf(`Dir::State %[1]q;
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::State::extended_states "%[1]s/extended_states";
Dir::Cache %[1]q;
Dir::Cache::archives "%[1]s/none";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Log %[1]q;
APT::Architecture %[2]q;
#clear APT::Architectures;
APT::Architectures { %[2]q; };
APT::Sandbox::User "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
`, dir, arch)
	if err := os.WriteFile(r.path("apt.conf"), []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("writing apt's configuration: %w", err)
	}
	return r, nil
}

func (r *Resolver) path(name string) string { return filepath.Join(r.dir, name) }

// Age returns how long ago Update last succeeded; an error matching fs.ErrNotExist means never.
func (r *Resolver) Age(now time.Time) (time.Duration, error) {
	info, err := os.Stat(r.path("updated"))
	if err != nil {
		return 0, err
	}
	return now.Sub(info.ModTime()), nil
}

// Update fetches the lists of packages from the host's sources.
func (r *Resolver) Update(ctx context.Context) error {
	if err := r.status(ctx, nil); err != nil {
		return err
	}
	// With Error-Mode any, a source that did not answer is an error, not a note in passing
	// that ends in "package not found" later.
	if _, err := r.run(ctx, "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"); err != nil {
		return fmt.Errorf("fetching the lists of packages: %w", err)
	}
	if err := os.RemoveAll(r.path("resolved")); err != nil { // by the old lists
		return err
	}
	return os.WriteFile(r.path("updated"), nil, 0o644)
}

// Resolve returns what must be unpacked, in addition to the packages in present, so that
// all of names work; sorted by name. Names in assumed count as there without being unpacked:
// dependencies an image does without. Until the next Update the answer is remembered.
func (r *Resolver) Resolve(ctx context.Context, names, assumed []string, present []Package) ([]Package, error) {
	question, err := json.Marshal([]any{r.arch, names, assumed, present})
	if err != nil {
		return nil, err
	}
	remembered := r.path(filepath.Join("resolved", fmt.Sprintf("%x", sha256.Sum256(question))))
	var packages []Package
	if text, err := os.ReadFile(remembered); err == nil && json.Unmarshal(text, &packages) == nil {
		return packages, nil
	}
	if packages, err = r.resolve(ctx, names, assumed, present); err != nil {
		return nil, err
	}
	text, err := json.Marshal(packages)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(remembered), 0o755); err != nil {
		return nil, err
	}
	// A torn file is not JSON and so no memory.
	return packages, os.WriteFile(remembered, text, 0o644)
}

func (r *Resolver) resolve(ctx context.Context, names, assumed []string, present []Package) ([]Package, error) {
	there := slices.Clone(assumed)
	for _, p := range present {
		there = append(there, p.Name+"="+p.Version)
	}
	if err := r.status(ctx, there); err != nil {
		return nil, err
	}
	out, err := r.run(ctx, "apt-get", append([]string{"-qq", "-y", "--no-remove", "--print-uris", "install"}, names...)...)
	if err != nil {
		return nil, err
	}
	packages, err := parseURIs(out)
	if err != nil {
		return nil, err
	}
	// An installed package whose status says less than the list is a candidate for
	// installing the same version again.
	packages = slices.DeleteFunc(packages, func(p Package) bool {
		return slices.Contains(assumed, p.Name) ||
			slices.ContainsFunc(present, func(q Package) bool { return p.Name == q.Name && p.Version == q.Version })
	})
	slices.SortFunc(packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return packages, nil
}

// Fetch downloads packages as Resolve returned them, unless they are there, and returns
// their paths in the same order.
func (r *Resolver) Fetch(ctx context.Context, packages []Package) ([]string, error) {
	var paths, missing []string
	for _, p := range packages {
		paths = append(paths, r.path(filepath.Join("archives", p.File)))
		if _, err := os.Stat(paths[len(paths)-1]); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, p.Name+"="+p.Version)
		} else if err != nil {
			return nil, err
		}
	}
	if len(missing) == 0 {
		return paths, nil
	}
	// "download" takes no notice of dependencies and puts the files into the current directory.
	cmd := r.command(ctx, "apt-get", append([]string{"-q", "download"}, missing...)...)
	cmd.Dir = r.path("archives")
	if _, err := output(cmd); err != nil {
		return nil, fmt.Errorf("downloading packages: %w", err)
	}
	for i, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("downloading %s: apt-get left no such file: %w", packages[i], err)
		}
	}
	return paths, nil
}

// status writes the dpkg status file that makes apt take packages for installed.
func (r *Resolver) status(ctx context.Context, names []string) error {
	var status bytes.Buffer
	if len(names) > 0 {
		out, err := r.run(ctx, "apt-cache", append([]string{"--no-all-versions", "show"}, names...)...)
		if err != nil {
			return err
		}
		writeStatus(&status, out)
	}
	if err := os.WriteFile(r.path("status"), status.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing apt's status: %w", err)
	}
	return nil
}

// writeStatus turns the stanzas of apt-cache show into those of a dpkg status file. Their
// dependencies are left out: what is assumed to be there need not be complete.
func writeStatus(status *bytes.Buffer, stanzas []byte) {
	seen := map[string]bool{}
	for stanza := range strings.SplitSeq(string(stanzas), "\n\n") {
		var kept []string
		name := ""
		for line := range strings.SplitSeq(stanza, "\n") {
			key, value, _ := strings.Cut(line, ":")
			switch key {
			case "Package":
				name = strings.TrimSpace(value)
				kept = append(kept, line)
			case "Version", "Architecture", "Multi-Arch", "Provides":
				kept = append(kept, line)
			}
		}
		if name == "" || seen[name] {
			continue
		}
		seen[name] = true
		fmt.Fprintf(status, "%s\nStatus: install ok installed\nMaintainer: none\nDescription: none\n\n", strings.Join(kept, "\n"))
	}
}

// parseURIs reads apt-get --print-uris: 'URI' FILE SIZE HASH.
func parseURIs(out []byte) ([]Package, error) {
	var packages []Package
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasPrefix(fields[0], "'") {
			return nil, fmt.Errorf("apt-get printed %q where a package's address should be", strings.TrimSpace(line))
		}
		file := fields[1]
		parts := strings.Split(strings.TrimSuffix(file, ".deb"), "_")
		if _, err := strconv.ParseUint(fields[2], 10, 63); err != nil || len(parts) != 3 || strings.ContainsRune(file, '/') || !strings.HasSuffix(file, ".deb") {
			return nil, fmt.Errorf("apt-get printed %q where a package's file should be", strings.TrimSpace(line))
		}
		packages = append(packages, Package{
			Name: parts[0], Version: strings.ReplaceAll(parts[1], "%3a", ":"), Arch: parts[2], File: file,
		})
	}
	return packages, nil
}

func (r *Resolver) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, append([]string{"-c", r.path("apt.conf")}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

func (r *Resolver) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	return output(r.command(ctx, name, args...))
}

// output runs cmd; its error holds what apt marked as one.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var said []string
	for line := range strings.Lines(stderr.String()) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "E: "); ok {
			said = append(said, text)
		}
	}
	if len(said) == 0 {
		said = append(said, strings.TrimSpace(stderr.String()))
	}
	// What apt prints for people on an unmet dependency is on its standard output.
	if i := strings.Index(stdout.String(), "unmet dependencies:"); i >= 0 {
		said = append(said, strings.Join(strings.Fields(stdout.String()[i:]), " "))
	}
	return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.Join(said, "; "))
}
