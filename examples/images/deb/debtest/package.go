package debtest

import (
	"archive/tar"
	"bytes"
	"fmt"
)

// Member is one member of an ar archive.
type Member struct {
	Name string // up to 16 bytes
	Body []byte
}

// Archive returns an ar archive of members, in their order.
func Archive(members ...Member) []byte {
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.Name, 0, 0, 0, 0o100644, len(m.Body))
		out.Write(m.Body)
		if len(m.Body)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// Package returns a package of the given name whose data archive is data, see [Tar].
func Package(name string, data []byte) []byte {
	control := Tar(File("./control", "Package: "+name+"\nVersion: 1\nArchitecture: all\n", 0o644))
	return Archive(
		Member{Name: "debian-binary", Body: []byte("2.0\n")},
		Member{Name: "control.tar", Body: control},
		Member{Name: "data.tar", Body: data})
}

// Entry is one entry of a tar archive.
type Entry struct {
	Header tar.Header
	Body   string
}

// File is a regular file with the permission bits of mode, owned by root.
func File(name, body string, mode int64) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body))}, body}
}

// Dir is a directory of mode 0755; a name in an archive ends with a slash.
func Dir(name string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

// Symlink is a symbolic link to target.
func Symlink(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

// Link is a hard link to the entry named target.
func Link(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755}, ""}
}

// Tar returns an uncompressed tar archive of entries. It panics on an entry that
// cannot be written, which is a fault of the test.
func Tar(entries ...Entry) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(e.Body)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}
