package share

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	MaybeRun()
	goleak.VerifyTestMain(m)
}

// machine is the other end: the agent's part, with a 9P client per mount.
type machine struct {
	t       *testing.T
	session *yamux.Session
}

// connect answers the greeting on the machine's end of a port.
func connect(t *testing.T, port net.Conn, key wire.Key) *machine {
	t.Helper()
	if err := wire.Answer(port, key); err != nil {
		t.Fatal(err)
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive, cfg.LogOutput = false, io.Discard
	s, err := yamux.Client(port, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &machine{t, s}
}

// open opens a share; the error is the server's.
func (m *machine) open(name string) (net.Conn, error) {
	m.t.Helper()
	stream, err := m.session.OpenStream()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := wire.WriteMessage(stream, wire.ShareOpen{Share: name}); err != nil {
		m.t.Fatal(err)
	}
	var reply wire.Reply
	if err := wire.ReadMessage(stream, &reply); err != nil {
		m.t.Fatal(err)
	}
	if reply.Error != nil {
		stream.Close()
		return nil, reply.Error
	}
	return stream, nil
}

// mount opens a share and attaches to it.
func (m *machine) mount(name string) p9.File {
	m.t.Helper()
	stream, err := m.open(name)
	if err != nil {
		m.t.Fatal(err)
	}
	c, err := p9.NewClient(stream)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	root, err := c.Attach("/")
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { root.Close() })
	return root
}

// serve runs a server of shares in this process.
func serve(t *testing.T, shares ...Share) *machine {
	t.Helper()
	host, guest := net.Pipe()
	key := wire.NewKey()
	done := make(chan error, 1)
	go func() { done <- Serve(host, key, shares) }()
	t.Cleanup(func() {
		guest.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return connect(t, guest, key)
}

func errno(err error) linux.Errno {
	if err == nil {
		return 0
	}
	return linux.ExtractErrno(err)
}

func walk(t *testing.T, f p9.File, names ...string) p9.File {
	t.Helper()
	_, g, err := f.Walk(names)
	if err != nil {
		t.Fatalf("walk %v: %v", names, err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func names(t *testing.T, dir p9.File) []string {
	t.Helper()
	var all []string
	for _, e := range entries(t, dir) {
		if e.Name != "." && e.Name != ".." {
			all = append(all, e.Name)
		}
	}
	slices.Sort(all)
	return all
}

func entries(t *testing.T, dir p9.File) []p9.Dirent {
	t.Helper()
	d := walk(t, dir)
	if _, _, err := d.Open(p9.ReadOnly); err != nil {
		t.Fatal(err)
	}
	var all []p9.Dirent
	for offset := uint64(0); ; {
		list, err := d.Readdir(offset, 1000)
		if errors.Is(err, io.EOF) || err == nil && len(list) == 0 {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
		offset = list[len(list)-1].Offset
	}
}

// TestDirectoryEntries: programs that walk a tree go by the type of an entry alone.
func TestDirectoryEntries(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "file"), nil, 0o640)
	os.Mkdir(filepath.Join(dir, "sub"), 0o755)
	os.Symlink("file", filepath.Join(dir, "link"))
	unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600)
	root := serve(t, Share{Name: "s", Path: dir}).mount("s")
	ino := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	for _, tt := range []struct {
		dir  []string
		want map[string]p9.QIDType
		up   string // what is above it, for containers
	}{
		{nil, map[string]p9.QIDType{".": unix.DT_DIR, "..": unix.DT_DIR, "file": unix.DT_REG, "sub": unix.DT_DIR, "link": unix.DT_LNK, "fifo": unix.DT_FIFO}, dir},
		{[]string{"sub"}, map[string]p9.QIDType{".": unix.DT_DIR, "..": unix.DT_DIR}, dir},
	} {
		got := map[string]p9.QIDType{}
		for _, e := range entries(t, walk(t, root, tt.dir...)) {
			got[e.Name] = e.Type
			if e.Name == ".." && e.QID.Path != ino(tt.up) {
				t.Errorf("%v/.. has inode %d, want %d", tt.dir, e.QID.Path, ino(tt.up))
			}
		}
		if !maps.Equal(got, tt.want) {
			t.Errorf("%v: entries %v, want %v", tt.dir, got, tt.want)
		}
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "a"), []byte("hello"), 0o640)
	os.Mkdir(filepath.Join(dir, "sub"), 0o755)
	root := serve(t, Share{Name: "s", Path: dir}).mount("s")

	if got := names(t, root); !slices.Equal(got, []string{"a", "sub"}) {
		t.Errorf("entries %v", got)
	}
	a := walk(t, root, "a")
	_, _, attr, err := a.GetAttr(p9.AttrMaskAll)
	if err != nil || attr.Mode.Permissions() != 0o640 || attr.Size != 5 {
		t.Errorf("a: %v, %v", attr, err)
	}
	if _, _, err := a.Open(p9.ReadWrite); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := a.ReadAt(buf, 0); string(buf[:n]) != "hello" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if _, err := a.WriteAt([]byte("J"), 0); err != nil {
		t.Error(err)
	}
	if err := a.FSync(); err != nil {
		t.Error(err)
	}

	sub := walk(t, root, "sub")
	made, _, _, err := walk(t, sub).Create("new", p9.WriteOnly, 0o751, p9.NoUID, 70)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := made.WriteAt([]byte("x"), 0); err != nil {
		t.Error(err)
	}
	made.Close()
	info, err := os.Stat(filepath.Join(dir, "sub", "new"))
	if err != nil || info.Size() != 1 || info.Mode().Perm()&^0o022 != 0o751&^0o022 {
		t.Errorf("the new file on the host: %v, %v", info, err)
	}

	if _, err := root.Symlink("/etc/passwd", "link", 0, 0); err != nil {
		t.Fatal(err)
	}
	if target, err := walk(t, root, "link").Readlink(); err != nil || target != "/etc/passwd" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	if err := root.Link(walk(t, root, "a"), "hard"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Mkdir("d", 0o700, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := root.UnlinkAt("d", 0); errno(err) != linux.EISDIR {
		t.Errorf("unlink of a directory: %v", err)
	}
	if err := root.UnlinkAt("d", unix.AT_REMOVEDIR); err != nil {
		t.Error(err)
	}
	if st, err := root.StatFS(); err != nil || st.Blocks == 0 {
		t.Errorf("statfs: %v, %v", st, err)
	}
	if _, err := root.Mknod("dev", p9.ModeCharacterDevice|0o600, 1, 3, 0, 0); errno(err) != linux.EPERM {
		t.Errorf("mknod of a device: %v", err)
	}
}

func TestManyEntries(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 3000 {
		name := strings.Repeat("x", 1+i%100) + string(rune('a'+i%26)) + time.Duration(i).String()
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	if got := names(t, serve(t, Share{Name: "s", Path: dir}).mount("s")); !slices.Equal(got, want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
}

func TestRenameMovesWhatOthersHold(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "d", "sub"), 0o755)
	os.WriteFile(filepath.Join(dir, "d", "sub", "f"), []byte("old"), 0o600)
	m := serve(t, Share{Name: "s", Path: dir})
	one, two := m.mount("s"), m.mount("s") // two containers
	held := walk(t, two, "d", "sub", "f")
	open := walk(t, two, "d", "sub", "f")
	if _, _, err := open.Open(p9.ReadOnly); err != nil {
		t.Fatal(err)
	}
	if err := one.RenameAt("d", walk(t, one), "e"); err != nil {
		t.Fatal(err)
	}
	// Another file now has the old name: it must not be taken for the held one.
	os.MkdirAll(filepath.Join(dir, "d", "sub"), 0o755)
	os.WriteFile(filepath.Join(dir, "d", "sub", "f"), []byte("imposter"), 0o600)
	_, _, attr, err := held.GetAttr(p9.AttrMaskAll)
	if err != nil || attr.Size != 3 {
		t.Errorf("the held file after the rename: size %d, %v", attr.Size, err)
	}
	if err := walk(t, one, "e", "sub").UnlinkAt("f", 0); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := held.GetAttr(p9.AttrMaskAll); errno(err) != linux.ENOENT {
		t.Errorf("a removed file: %v", err)
	}
	buf := make([]byte, 8)
	if n, err := open.ReadAt(buf, 0); string(buf[:n]) != "old" {
		t.Errorf("a removed file that is open: %q, %v", buf[:n], err)
	}
}

func TestNothingLeadsOut(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "share")
	os.MkdirAll(filepath.Join(dir, "in"), 0o755)
	os.WriteFile(filepath.Join(base, "secret"), []byte("secret"), 0o600)
	os.Symlink("..", filepath.Join(dir, "up"))
	os.Symlink("/", filepath.Join(dir, "abs"))
	os.Symlink("/proc/self/root", filepath.Join(dir, "magic"))
	tr, err := newTree(Share{Name: "s", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	// By the file layer itself: the protocol layer in front refuses some of this.
	for _, path := range [][]string{
		{".."},
		{"up", "secret"},
		{"abs", "etc"},
		{"magic", "etc"},
		{"in", "..", "..", "secret"},
		{"../secret"},
		{"/etc/passwd"},
		{""},
		{"."},
		{"in/../../secret"},
		{"a\x00b"},
	} {
		root := &file{tree: tr, node: tr.top}
		tr.retain(tr.top)
		if _, f, err := root.Walk(path); err == nil {
			t.Errorf("walk %q succeeded: %v", path, f)
			f.Close()
		}
		root.Close()
	}
	root := &file{tree: tr, node: tr.top}
	tr.retain(tr.top)
	defer root.Close()
	for _, bad := range []string{"..", "../x", "a/b", "", "."} {
		if _, err := root.Mkdir(bad, 0o700, 0, 0); err == nil {
			t.Errorf("mkdir %q succeeded", bad)
		}
		if _, _, _, err := root.Create(bad, p9.WriteOnly, 0o600, 0, 0); err == nil {
			t.Errorf("create %q succeeded", bad)
		}
		if err := root.UnlinkAt(bad, 0); err == nil {
			t.Errorf("unlink %q succeeded", bad)
		}
		if err := root.RenameAt("in", root, bad); err == nil {
			t.Errorf("rename to %q succeeded", bad)
		}
	}
	// A directory that is replaced by a link while the machine holds it.
	_, held, err := root.Walk([]string{"in"})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	os.Remove(filepath.Join(dir, "in"))
	os.Symlink("..", filepath.Join(dir, "in"))
	if _, _, err := held.Walk([]string{"secret"}); err == nil {
		t.Error("a link put in a directory's place led out")
	}
	if _, _, _, err := held.Create("made", p9.WriteOnly, 0o600, 0, 0); err == nil {
		t.Error("a file was made outside")
	}
	if list, _ := os.ReadDir(base); len(list) != 2 {
		t.Errorf("outside of the share: %v", list)
	}
}

func TestSingleFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "conf")
	os.WriteFile(path, []byte("one"), 0o644)
	os.WriteFile(filepath.Join(dir, "other"), nil, 0o644)
	root := serve(t, Share{Name: "s", Path: path}).mount("s")
	if got := names(t, root); !slices.Equal(got, []string{FileName}) {
		t.Errorf("entries %v", got)
	}
	for _, bad := range []string{"conf", "other", ".."} {
		if _, _, err := root.Walk([]string{bad}); err == nil {
			t.Errorf("%q is reachable", bad)
		}
	}
	f := walk(t, root, FileName)
	if _, _, err := f.Open(p9.ReadWrite); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("two"), 0); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "two" {
		t.Errorf("on the host: %q", got)
	}
	if _, _, _, err := root.Create("new", p9.WriteOnly, 0o600, 0, 0); errno(err) != linux.EPERM {
		t.Errorf("create beside a single file: %v", err)
	}
	if err := root.UnlinkAt(FileName, 0); errno(err) != linux.EPERM {
		t.Errorf("unlink of a single file: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o644)
	root := serve(t, Share{Name: "s", Path: dir, ReadOnly: true}).mount("s")
	f := walk(t, root, "f")
	results := map[string]error{}
	_, _, results["open"] = walk(t, root, "f").Open(p9.ReadWrite)
	_, _, results["truncating open"] = walk(t, root, "f").Open(p9.OpenFlags(unix.O_TRUNC))
	results["setattr"] = f.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{})
	_, _, _, results["create"] = walk(t, root).Create("new", p9.WriteOnly, 0o600, 0, 0)
	_, results["mkdir"] = root.Mkdir("d", 0o700, 0, 0)
	results["unlink"] = root.UnlinkAt("f", 0)
	results["rename"] = root.RenameAt("f", walk(t, root), "g")
	results["link"] = root.Link(f, "g")
	for op, err := range results {
		if errno(err) != linux.EROFS {
			t.Errorf("%s: %v, want EROFS", op, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "f")); string(got) != "kept" {
		t.Errorf("the file: %q, %v", got, err)
	}
}

func TestOwnersAreKeptForContainers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	os.WriteFile(path, nil, 0o600)
	if err := unix.Setxattr(path, "user.stack.test", nil, 0); err != nil {
		t.Skipf("the temporary directory's file system has no user attributes: %v", err)
	}
	tr, err := newTree(Share{Name: "s", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	at, err := tr.Attach()
	if err != nil {
		t.Fatal(err)
	}
	_, root, err := at.Walk([]string{"uid-999"})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ids := func(name string) [2]int {
		_, f, err := root.Walk([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, _, attr, err := f.GetAttr(p9.AttrMaskAll)
		if err != nil {
			t.Fatal(err)
		}
		return [2]int{int(attr.UID), int(attr.GID)}
	}
	made, _, _, err := root.Create("mine", p9.WriteOnly, 0o600, p9.NoUID, 998)
	if err != nil {
		t.Fatal(err)
	}
	made.Close()
	if got := ids("mine"); got != [2]int{999, 998} {
		t.Errorf("a file made by 999:998 belongs to %v", got)
	}
	_, f, err := root.Walk([]string{"f"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetAttr(p9.SetAttrMask{UID: true, GID: true}, p9.SetAttr{UID: 70, GID: 71}); err != nil {
		t.Fatal(err)
	}
	if got := ids("f"); got != [2]int{70, 71} {
		t.Errorf("after chown 70:71: %v", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || int(st.Uid) != os.Getuid() {
		t.Errorf("on the host it belongs to %d, %v", st.Uid, err)
	}
	// Containers neither see nor forge the attribute.
	if err := f.SetXattr(ownerAttribute, []byte("0:0"), 0); err == nil {
		t.Error("a container wrote the owner attribute")
	}
	if list, err := f.ListXattrs(); err != nil || slices.Contains(list, ownerAttribute) {
		t.Errorf("attributes %v, %v", list, err)
	}
	if _, bad, err := at.Walk([]string{"root"}); err == nil {
		bad.Close()
		t.Error("a walk from the attach point found a name that is no user id")
	}
}

func TestUnknownShare(t *testing.T) {
	m := serve(t, Share{Name: "s", Path: t.TempDir()})
	if _, err := m.open("../s"); err == nil {
		t.Error("a share that does not exist was opened")
	}
}

func TestTwentySharesOverOnePort(t *testing.T) {
	var shares []Share
	for i := range 20 {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "n"), []byte{byte(i)}, 0o600)
		shares = append(shares, Share{Name: time.Duration(i).String(), Path: dir})
	}
	m := serve(t, shares...)
	for i, s := range shares {
		f := walk(t, m.mount(s.Name), "n")
		if _, _, err := f.Open(p9.ReadOnly); err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) || b[0] != byte(i) {
			t.Errorf("share %d holds %d, %v", i, b[0], err)
		}
	}
}

func TestProcess(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), []byte("served"), 0o600)
	key := wire.NewKey()
	p, err := Start([]Share{{Name: "s", Path: dir}}, key, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.PIDFD)
	port, err := net.FileConn(p.Port)
	if err != nil {
		t.Fatal(err)
	}
	p.Port.Close()
	m := connect(t, port, key)
	root := m.mount("s")
	f := walk(t, root, "f")
	if _, _, err := f.Open(p9.ReadWrite); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, _ := f.ReadAt(buf, 0); string(buf[:n]) != "served" {
		t.Errorf("read %q", buf[:n])
	}
	if _, err := root.Mkdir("made", 0o755, 0, 0); err != nil {
		t.Errorf("mkdir in the sandbox: %v", err)
	}
	// The machine's end: so is the server's.
	m.session.Close()
	port.Close()
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(p.PIDFD), Events: unix.POLLIN}}, 60_000); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(p.PID, nil, unix.WNOHANG, nil); err != nil {
		t.Errorf("the server outlives its machine: %v", err)
	}
}

func TestStartReportsAllFaults(t *testing.T) {
	_, err := Start([]Share{{Name: "a", Path: "/does/not/exist"}, {Name: "", Path: "/"}, {Name: "b", Path: "relative"}}, wire.NewKey(), nil)
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist") || !strings.Contains(err.Error(), "relative") {
		t.Errorf("faults: %v", err)
	}
}

// attachMessage is a Tattach as the kernel sends it.
func attachMessage(uname, aname string, uid uint32) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 1)
	b = le.AppendUint32(b, ^uint32(0))
	for _, s := range []string{uname, aname} {
		b = append(le.AppendUint16(b, uint16(len(s))), s...)
	}
	b = le.AppendUint32(b, uid)
	head := append(le.AppendUint32(nil, uint32(7+len(b))), tattach, 1, 0)
	return append(head, b...)
}

func FuzzAttachNames(f *testing.F) {
	other := append(binary.LittleEndian.AppendUint32(nil, 11), 100, 0, 0, 1, 2, 3, 4)
	f.Add(append(slices.Clone(other), attachMessage("nobody", "/", 999)...))
	f.Add(attachMessage("", "", 0))
	f.Add([]byte{1, 0, 0, 0, 104, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := io.ReadAll(&attachNames{r: bytes.NewReader(in)})
		if err != nil {
			return
		}
		// What comes out is messages again, and every attach names a user.
		for len(out) >= msgHeader {
			size := binary.LittleEndian.Uint32(out)
			if size < msgHeader || int(size) > len(out) {
				return // the input ended in the middle of a message
			}
			if out[4] == tattach && !bytes.Contains(out[:size], []byte(attachPrefix)) {
				t.Errorf("an attach without a user: %q", out[:size])
			}
			out = out[size:]
		}
	})
}

func TestAttachNames(t *testing.T) {
	in := append(attachMessage("root", "/some/where", 70), attachMessage("", "", 0)...)
	out, err := io.ReadAll(&attachNames{r: bytes.NewReader(in)})
	if err != nil {
		t.Fatal(err)
	}
	want := append(attachMessage("root", "uid-70", 70), attachMessage("", "uid-0", 0)...)
	if !bytes.Equal(out, want) {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}
