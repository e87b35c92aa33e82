package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// tarGz packs files, which are in order, with their directories, every one
// root's and of the same time.
func tarGz(files []file, prefix string, when time.Time) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(z)
	made := map[string]bool{".": true}
	var directory func(dir string) error
	directory = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		if err := directory(path.Dir(dir)); err != nil {
			return err
		}
		name := dir + "/"
		if strings.HasPrefix(prefix, "./") {
			name = "./" + name
		}
		return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: when, Uname: "root", Gname: "root"})
	}
	for _, f := range files {
		if err := directory(path.Dir(path.Clean(prefix + f.path))); err != nil {
			return nil, err
		}
		if err := t.WriteHeader(&tar.Header{Name: prefix + f.path, Mode: int64(f.mode), Size: int64(len(f.data)), ModTime: when, Uname: "root", Gname: "root"}); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// debian makes a binary package, deb(5): an ar archive of a version, what dpkg
// reads, and the files below /usr.
func debian(files []file, version string, when time.Time) ([]byte, error) {
	files = slices.Clone(files)
	for i := range files {
		if files[i].path == zshCompletion { // Debian's zsh has another place for packages
			files[i].path = "share/zsh/vendor-completions/_stack"
		}
	}
	slices.SortFunc(files, byPath)
	var size int
	var sums strings.Builder
	for _, f := range files {
		size += len(f.data)
		fmt.Fprintf(&sums, "%x  usr/%s\n", md5.Sum(f.data), f.path) // deb(5) knows no other sum
	}
	control := fmt.Sprintf(`Package: stack
Version: %s
Architecture: %s
Maintainer: stack <https://github.com/stackvm/stack>
Installed-Size: %d
Depends: qemu-system-x86 (>= 1:7.2)
Recommends: ca-certificates
Conflicts: haskell-stack
Section: admin
Priority: optional
Homepage: https://github.com/stackvm/stack
Description: compose projects, every service in its own micro-VM
 stack runs an unchanged compose.yaml with every service in its own micro-VM: its own
 kernel, on private virtual networks, with names that resolve. No daemon, no root.
 .
 "stack system compose on" lets it answer to docker compose as well.
`, version, arch, (size+1023)/1024)
	head, err := tarGz([]file{{"control", 0o644, []byte(control)}, {"md5sums", 0o644, []byte(sums.String())}}, "./", when)
	if err != nil {
		return nil, err
	}
	data, err := tarGz(files, "./usr/", when)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range []file{{"debian-binary", 0, []byte("2.0\n")}, {"control.tar.gz", 0, head}, {"data.tar.gz", 0, data}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.path, when.Unix(), 0, 0, "100644", len(m.data))
		out.Write(m.data)
		if len(m.data)%2 != 0 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), nil
}

// debianVersion is a version as dpkg orders it: a tag's number, or for a build
// between tags one that grows with the time and is below every number.
func debianVersion(version string, when time.Time) string {
	if number := strings.TrimPrefix(version, "v"); number != "" && number[0] >= '0' && number[0] <= '9' && number != version {
		return strings.ReplaceAll(number, "-", "+") // v1.2-3-gabc: three commits after it
	}
	return "0~" + when.Format("20060102150405") + "+" + strings.ReplaceAll(version, "-", "+")
}

type artefact struct {
	name string
	data []byte
}

// writeSums writes the artefacts and SHA256SUMS, which sha256sum -c reads.
func writeSums(dir string, all []artefact) error {
	var sums bytes.Buffer
	for _, a := range all {
		if err := os.WriteFile(filepath.Join(dir, a.name), a.data, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(a.data), a.name)
		fmt.Println(filepath.Join(dir, a.name))
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), sums.Bytes(), 0o644)
}
