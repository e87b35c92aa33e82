//go:build linux

package storage

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

const (
	idA = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"
	idB = "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2"
)

func served() *wire.Serve {
	return &wire.Serve{
		Volumes: []wire.ServedVolume{{Serial: "v1", FSID: 1}, {Serial: "v2", FSID: 256}},
		Clients: []wire.StorageClient{
			{ID: idA, Addr: "169.254.0.3", Volumes: map[string]bool{"v1": false}},
			{ID: idB, Addr: "169.254.0.4", Volumes: map[string]bool{"v1": true, "v2": false}},
		},
	}
}

func TestAnswers(t *testing.T) {
	table, err := newTable(served())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ cache, question, want string }{
		{"auth.unix.ip", "nfsd 169.254.0.3", "nfsd 169.254.0.3 " + forever + " " + idA},
		{"auth.unix.ip", "nfsd ::ffff:169.254.0.4", "nfsd ::ffff:169.254.0.4 " + forever + " " + idB},
		{"auth.unix.ip", "nfsd 169.254.0.9", "nfsd 169.254.0.9 " + forever},
		{"auth.unix.ip", "nlm 169.254.0.3", "nlm 169.254.0.3 " + forever},
		{"nfsd.fh", idA + ` 1 \x00000000`, idA + ` 1 \x00000000 ` + forever + " /run/disks"},
		{"nfsd.fh", idA + ` 1 \x01000000`, idA + ` 1 \x01000000 ` + forever + " /run/disks/v1"},
		{"nfsd.fh", idB + ` 1 \x00010000`, idB + ` 1 \x00010000 ` + forever + " /run/disks/v2"},
		// Another's volume, one that is none, another kind of number, nobody.
		{"nfsd.fh", idA + ` 1 \x00010000`, idA + ` 1 \x00010000 ` + forever},
		{"nfsd.fh", idA + ` 1 \x07000000`, idA + ` 1 \x07000000 ` + forever},
		{"nfsd.fh", idA + ` 6 \x01000000`, idA + ` 6 \x01000000 ` + forever},
		{"nfsd.fh", `x 1 \x01000000`, `x 1 \x01000000 ` + forever},
		{"nfsd.export", idA + " /run/disks", idA + " /run/disks " + forever + " 74753 65534 65534 0"},
		{"nfsd.export", idA + " /run/disks/v1", idA + " /run/disks/v1 " + forever + " 9216 65534 65534 1"},
		{"nfsd.export", idB + " /run/disks/v1", idB + " /run/disks/v1 " + forever + " 9217 65534 65534 1"},
		{"nfsd.export", idA + " /run/disks/v2", idA + " /run/disks/v2 " + forever},
		{"nfsd.export", idA + " /run/disks/records", idA + " /run/disks/records " + forever},
		{"nfsd.export", idA + " v1", idA + " v1 " + forever},
		{"nfsd.export", idA + " /", idA + " / " + forever},
	} {
		if got, err := table.answer(c.cache, c.question); got != c.want || err != nil {
			t.Errorf("%s: %q\n got %q, %v\nwant %q", c.cache, c.question, got, err, c.want)
		}
	}
	if _, err := table.answer("nfsd.fh", "too few"); err == nil {
		t.Error("a question that is too short has an answer")
	}
}

func TestServeIsChecked(t *testing.T) {
	for what, spoil := range map[string]func(*wire.Serve){
		"a number twice":           func(s *wire.Serve) { s.Volumes[1].FSID = 1 },
		"the number of the root":   func(s *wire.Serve) { s.Volumes[0].FSID = 0 },
		"a client twice":           func(s *wire.Serve) { s.Clients[1].ID = idA },
		"an address twice":         func(s *wire.Serve) { s.Clients[1].Addr = "169.254.0.3" },
		"an id of several words":   func(s *wire.Serve) { s.Clients[0].ID = "a b" },
		"no address":               func(s *wire.Serve) { s.Clients[0].Addr = "" },
		"a volume that is not one": func(s *wire.Serve) { s.Clients[0].Volumes["v3"] = false },
	} {
		s := served()
		spoil(s)
		if _, err := newTable(s); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

// Whatever is asked, the answer is one line that repeats the question, and leads a
// client to nothing but its own volumes.
func FuzzAnswer(f *testing.F) {
	table, err := newTable(served())
	if err != nil {
		f.Fatal(err)
	}
	for _, q := range []string{"nfsd 169.254.0.3", idA + ` 1 \x01000000`, idB + " /run/disks/v2", idA + " /run/disks/v2", `\x`, "  "} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, question string) {
		for _, cache := range caches {
			line, err := table.answer(cache, question)
			if err != nil {
				continue
			}
			words := strings.Fields(question)
			rest, ok := strings.CutPrefix(line, strings.Join(words, " ")+" "+forever)
			if !ok || strings.Contains(line, "\n") {
				t.Fatalf("%s: %q is answered with %q", cache, question, line)
			}
			if words[0] == idA && (strings.Contains(rest, "v2") || cache == "nfsd.export" && strings.HasSuffix(words[1], "v2") && rest != "") {
				t.Fatalf("%s: %q is answered with %q", cache, question, line)
			}
		}
	})
}

func TestClientAddr(t *testing.T) {
	info := "clientid: 0x1\naddress: \"169.254.0.3:851\"\nstatus: confirmed\n"
	if a, ok := clientAddr(info); !ok || a != netip.MustParseAddr("169.254.0.3") {
		t.Errorf("%v, %v", a, ok)
	}
	if _, ok := clientAddr("address: nonsense\n"); ok {
		t.Error("nonsense is an address")
	}
}

// upcall has the records answer as the kernel would ask, and returns the names
// that it was told on the way.
func upcall(t *testing.T, r *records, command byte, name string) (told []string) {
	t.Helper()
	var m cldMessage
	m.raw[1] = command
	m.setName(name)
	replies := 0
	if err := r.answer(&m, func(m *cldMessage) error {
		switch errno := unix.Errno(-int16(binary.NativeEndian.Uint16(m.raw[2:]))); errno {
		case unix.EINPROGRESS:
			n, err := m.name()
			if err != nil {
				t.Fatal(err)
			}
			told = append(told, n)
		case 0:
			replies++
		default:
			t.Fatalf("command %d of %q: %v", command, name, errno)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if replies != 1 {
		t.Fatalf("command %d of %q has %d replies", command, name, replies)
	}
	slices.Sort(told)
	return told
}

// Who held state may claim it after a crash, also one in the grace period; who
// has gone, or whose machine has, may not.
func TestRecords(t *testing.T) {
	dir := t.TempDir()
	present := []string{idA, idB}
	open := func() *records {
		r, err := openRecords(dir, present)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a, b, c := "Linux NFSv4.2 "+idA+"/web", "Linux NFSv4.2 "+idB+"/web", "Linux NFSv4.2 "+strings.Repeat("c3", 16)+"/web"
	r := open()
	if told := upcall(t, r, cldGraceStart, ""); told != nil {
		t.Errorf("at first %v may claim something", told)
	}
	upcall(t, r, cldGraceDone, "")
	for _, name := range []string{a, b, c, "left"} {
		upcall(t, r, cldCreate, name)
	}
	upcall(t, r, cldRemove, "left")
	// Killed; again; and again before any of them came back.
	for range 2 {
		r = open()
		if told := upcall(t, r, cldGraceStart, ""); !slices.Equal(told, []string{a, b}) {
			t.Errorf("%v may claim something", told)
		}
		upcall(t, r, cldCreate, a)
	}
	if !r.awaited[b] || len(r.awaited) != 1 {
		t.Errorf("awaited: %v", r.awaited)
	}
	upcall(t, r, cldGraceDone, "")
	r = open()
	if told := upcall(t, r, cldGraceStart, ""); !slices.Equal(told, []string{a}) {
		t.Errorf("after a grace period that %q let pass %v may claim something", b, told)
	}
}
