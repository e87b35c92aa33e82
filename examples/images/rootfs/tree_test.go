package rootfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"pgregory.net/rapid"

	"github.com/stackvm/stack/examples/images/deb/debtest"
	"github.com/stackvm/stack/examples/images/rootfs"
)

// list returns one line for each entry of the layer of tree.
func list(t testing.TB, tree *rootfs.Tree, mediaType types.MediaType) []string {
	t.Helper()
	layer, err := tree.Layer(mediaType)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var lines []string
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return lines
		} else if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Year() != 2000 || h.Uname != "" {
			t.Errorf("%s has time %v and user name %q", h.Name, h.ModTime, h.Uname)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %04o %d:%d %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if len(content) > 0 {
			line += fmt.Sprintf(" %q", content)
		}
		for key, value := range h.PAXRecords {
			line += fmt.Sprintf(" %s=%s", strings.TrimPrefix(key, "SCHILY.xattr."), value)
		}
		lines = append(lines, line)
	}
}

func TestLayers(t *testing.T) {
	base := rootfs.New()
	base.Symlink("/bin", "usr/bin")
	base.File("/bin/sh", "shell", rootfs.Attr{Mode: 0o4755})
	base.Link("/bin/ash", "/usr/bin/sh")
	base.File("/etc/passwd", "root:x:0:0::/root:/bin/sh\n", rootfs.Attr{Mode: 0o644})
	base.File("/etc/group", "root:x:0:\n", rootfs.Attr{Mode: 0o644})
	base.File("/var/cache/a", "a", rootfs.Attr{Mode: 0o644})
	base.File("/var/lib/b", "b", rootfs.Attr{Mode: 0o644})
	base.Device("/dev/null", tar.TypeChar, 1, 3, rootfs.Attr{Mode: 0o666})
	if diff := cmp.Diff([]string{
		"2 0777 0:0 bin -> usr/bin",
		"5 0755 0:0 dev/",
		"3 0666 0:0 dev/null",
		"5 0755 0:0 etc/",
		`0 0644 0:0 etc/group "root:x:0:\n"`,
		`0 0644 0:0 etc/passwd "root:x:0:0::/root:/bin/sh\n"`,
		"5 0755 0:0 usr/",
		"5 0755 0:0 usr/bin/",
		`0 4755 0:0 usr/bin/ash "shell"`, // the first name of the inode carries it
		"1 4755 0:0 usr/bin/sh -> usr/bin/ash",
		"5 0755 0:0 var/",
		"5 0755 0:0 var/cache/",
		`0 0644 0:0 var/cache/a "a"`,
		"5 0755 0:0 var/lib/",
		`0 0644 0:0 var/lib/b "b"`,
	}, list(t, base, types.DockerLayer)); diff != "" {
		t.Errorf("base (-want +got):\n%s", diff)
	}

	top := base.Above()
	top.File("/bin/tool", "tool", rootfs.Attr{Mode: 0o755, Xattrs: map[string]string{"user.a": "b"}})
	top.User("app", 999, 998, "/data", "/bin/false")
	top.Remove("/var/cache")
	top.Opaque("/var/lib", rootfs.Attr{Mode: 0o700, UID: 1})
	top.File("/var/lib/c", "c", rootfs.Attr{Mode: 0o644})
	top.Link("/bin/bash", "/bin/sh")
	for name, want := range map[string]bool{"/var/lib/b": false, "/var/lib/c": true, "/var/cache/a": false, "/bin/sh": true, "/": true} {
		if got := top.Exists(name); got != want {
			t.Errorf("Exists(%q) = %v", name, got)
		}
	}
	for _, mediaType := range []types.MediaType{types.DockerLayer, types.OCILayerZStd} {
		if diff := cmp.Diff([]string{
			`0 0644 0:0 etc/group "root:x:0:\napp:x:998:\n"`,
			`0 0644 0:0 etc/passwd "root:x:0:0::/root:/bin/sh\napp:x:999:998::/data:/bin/false\n"`,
			`0 4755 0:0 usr/bin/bash "shell"`,
			"1 4755 0:0 usr/bin/sh -> usr/bin/bash",
			`0 0755 0:0 usr/bin/tool "tool" user.a=b`,
			"0 0000 0:0 var/.wh.cache",
			"5 0700 1:0 var/lib/",
			"0 0000 0:0 var/lib/.wh..wh..opq",
			`0 0644 0:0 var/lib/c "c"`,
		}, list(t, top, mediaType)); diff != "" {
			t.Errorf("top as %s (-want +got):\n%s", mediaType, diff)
		}
	}
}

func TestUnpack(t *testing.T) {
	pkg := debtest.Package("hello", debtest.Tar(
		debtest.Dir("./"), debtest.Dir("./bin/"), debtest.Dir("./etc/"),
		debtest.File("./bin/hello", "hello", 0o755),
		debtest.Link("./bin/hullo", "./bin/hello"),
		debtest.Symlink("./etc/greeting", "../bin/hello"),
		debtest.File("./usr/share/doc/hello/README", "long", 0o644),
	))
	tree := rootfs.New()
	tree.Symlink("/bin", "usr/bin")
	tree.Dir("/etc", rootfs.Attr{Mode: 0o700})
	err := tree.Unpack(bytes.NewReader(pkg), func(name string) bool { return !strings.HasPrefix(name, "/usr/share/doc/") && name != "/bin" })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"2 0777 0:0 bin -> usr/bin",
		"5 0700 0:0 etc/",
		"2 0777 0:0 etc/greeting -> ../bin/hello",
		"5 0755 0:0 usr/",
		"5 0755 0:0 usr/bin/",
		`0 0755 0:0 usr/bin/hello "hello"`,
		"1 0755 0:0 usr/bin/hullo -> usr/bin/hello",
	}, list(t, tree, types.DockerLayer)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(*rootfs.Tree)
		want string
	}{
		"loop":               {func(t *rootfs.Tree) { t.Symlink("/a", "b"); t.Symlink("/b", "a"); t.File("/a/c", "", rootfs.Attr{}) }, "making /a/c: too many symbolic links"},
		"file as directory":  {func(t *rootfs.Tree) { t.File("/a", "", rootfs.Attr{}); t.File("/a/b", "", rootfs.Attr{}) }, "making /a/b: a is no directory"},
		"directory as file":  {func(t *rootfs.Tree) { t.Dir("/a", rootfs.Attr{}); t.File("/a", "", rootfs.Attr{}) }, "making /a: a file and a directory have that name"},
		"link to nothing":    {func(t *rootfs.Tree) { t.Link("/a", "/b") }, "linking /a: no file /b to link to"},
		"removing nothing":   {func(t *rootfs.Tree) { t.Remove("/a") }, "removing /a: file does not exist"},
		"reading nothing":    {func(t *rootfs.Tree) { t.Append("/a", "") }, "reading /a: file does not exist"},
		"type bits in mode":  {func(t *rootfs.Tree) { t.Dir("/a", rootfs.Attr{Mode: fs.ModeDir | 0o755}) }, "making /a: mode"},
		"only the first one": {func(t *rootfs.Tree) { t.Remove("/a"); t.Remove("/b") }, "removing /a"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := rootfs.New()
			tt.do(tree)
			_, err := tree.Layer(types.DockerLayer)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, tree.Err()) {
				t.Errorf("Layer = %v, Err = %v, want %q", err, tree.Err(), tt.want)
			}
		})
	}
}

// TestOrderDoesNotShow: however a tree came about, the same tree gives the same bytes.
func TestOrderDoesNotShow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]/[a-c]/[d-f]`), 1, 9, rapid.ID).Draw(t, "names")
		digest := func(names []string) string {
			tree := rootfs.New()
			for _, name := range names {
				tree.File(name, name, rootfs.Attr{Mode: 0o644})
			}
			layer, err := tree.Layer(types.OCILayer)
			if err != nil {
				t.Fatal(err)
			}
			h, err := layer.Digest()
			if err != nil {
				t.Fatal(err)
			}
			return h.String()
		}
		if a, b := digest(names), digest(rapid.Permutation(names).Draw(t, "permuted")); a != b {
			t.Errorf("%s and %s", a, b)
		}
	})
}
