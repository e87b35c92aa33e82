//go:build linux

package storage

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"

	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// caches are what the kernel asks user space about, by the directories of
// /proc/net/rpc.
var caches = []string{"auth.unix.ip", "nfsd.fh", "nfsd.export"}

// root is where all volumes are mounted, and what a client sees of it are those
// that are exported to it.
const root = "/run/disks"

// Flags of an export, of the kernel's NFSEXP_. Root is root: a container's users
// own what they make, as on a disk of their own. Without NFSEXP_ASYNC a commit is
// on the disk when it is answered.
const (
	exportReadOnly       = 0x1
	exportNoSubtreeCheck = 0x400
	exportFSID           = 0x2000
	exportV4Root         = 0x10000
)

// forever is the expiry of an answer, in seconds since 1970.
const forever = "2147483647"

// table is what each client may see.
type table struct {
	clients map[netip.Addr]*wire.StorageClient
	domains map[string]*wire.StorageClient // by id
	serials map[uint32]string              // by fsid
	fsids   map[string]uint32
}

func newTable(want *wire.Serve) (*table, error) {
	t := &table{
		clients: map[netip.Addr]*wire.StorageClient{}, domains: map[string]*wire.StorageClient{},
		serials: map[uint32]string{}, fsids: map[string]uint32{},
	}
	for _, v := range want.Volumes {
		if v.FSID == 0 || t.serials[v.FSID] != "" {
			return nil, fmt.Errorf("volume %q: file system number %d is taken", v.Serial, v.FSID)
		}
		t.serials[v.FSID], t.fsids[v.Serial] = v.Serial, v.FSID
	}
	for i := range want.Clients {
		c := &want.Clients[i]
		addr, err := netip.ParseAddr(c.Addr)
		if err != nil {
			return nil, fmt.Errorf("client %q: %w", c.ID, err)
		}
		if _, err := hex.DecodeString(c.ID); err != nil || c.ID == "" || t.domains[c.ID] != nil || t.clients[addr] != nil {
			return nil, fmt.Errorf("client %q at %s: not an id, or there twice", c.ID, addr)
		}
		for serial := range c.Volumes {
			if t.fsids[serial] == 0 {
				return nil, fmt.Errorf("client %q: volume %q is not served", c.ID, serial)
			}
		}
		t.clients[addr], t.domains[c.ID] = c, c
	}
	return t, nil
}

func (t *table) ids() []string {
	ids := make([]string, 0, len(t.domains))
	for id := range t.domains {
		ids = append(ids, id)
	}
	return ids
}

// answer returns the line that answers a question of a cache. What is not in the
// table does not exist, which is an answer too.
func (t *table) answer(cache, question string) (string, error) {
	words := strings.Fields(question)
	want := 2
	if cache == "nfsd.fh" {
		want = 3
	}
	if len(words) != want {
		return "", fmt.Errorf("%s: question %q has %d words, not %d", cache, question, len(words), want)
	}
	known := strings.Join(words, " ") + " " + forever
	switch cache {
	case "auth.unix.ip": // class, address
		addr, err := netip.ParseAddr(words[1])
		if c := t.clients[addr.Unmap()]; err == nil && words[0] == "nfsd" && c != nil {
			return known + " " + c.ID, nil
		}
	case "nfsd.fh": // domain, kind of file system number, the number
		c := t.domains[words[0]]
		number, ok := fsid(words[2])
		switch {
		case c == nil || words[1] != "1" || !ok: // FSID_NUM
		case number == 0:
			return known + " " + root, nil
		default:
			if serial := t.serials[number]; serial != "" {
				if _, may := c.Volumes[serial]; may {
					return known + " " + root + "/" + serial, nil
				}
			}
		}
	case "nfsd.export": // domain, path
		c := t.domains[words[0]]
		if c == nil {
			break
		}
		if words[1] == root {
			return fmt.Sprintf("%s %d 65534 65534 0", known, exportReadOnly|exportNoSubtreeCheck|exportFSID|exportV4Root), nil
		}
		serial := strings.TrimPrefix(words[1], root+"/")
		readOnly, may := c.Volumes[serial]
		if !may || words[1] != root+"/"+serial {
			break
		}
		flags := exportNoSubtreeCheck | exportFSID
		if readOnly {
			flags |= exportReadOnly
		}
		return fmt.Sprintf("%s %d 65534 65534 %d", known, flags, t.fsids[serial]), nil
	}
	return known, nil
}

// fsid reads a number of four bytes as the kernel writes it: \x01000000.
func fsid(word string) (uint32, bool) {
	digits, ok := strings.CutPrefix(word, `\x`)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(b), true
}

// answers has the kernel's questions answered from a table.
type answers struct{ table atomic.Pointer[table] }

func (a *answers) set(t *table) { a.table.Store(t) }

// serve answers until the machine ends.
func (a *answers) serve() error {
	var channels []int
	for _, cache := range caches {
		fd, err := unix.Open("/proc/net/rpc/"+cache+"/channel", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the channel of %s: %w", cache, err)
		}
		channels = append(channels, fd)
	}
	go func() {
		// Reading a channel without a question gives nothing at all, so a thread
		// sleeps in poll.
		buf := make([]byte, 32<<10) // the kernel writes a page at most
		for {
			var ready []unix.PollFd
			for _, fd := range channels {
				ready = append(ready, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			}
			if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
				fmt.Fprintln(os.Stderr, "agent: waiting for the NFS server's questions:", err)
				return
			}
			for i, r := range ready {
				if r.Revents&unix.POLLIN == 0 {
					continue
				}
				if err := a.one(channels[i], caches[i], buf); err != nil {
					fmt.Fprintln(os.Stderr, "agent: answering the NFS server:", err)
				}
			}
		}
	}()
	return nil
}

func (a *answers) one(fd int, cache string, buf []byte) error {
	n, err := unix.Read(fd, buf)
	if n == 0 || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", cache, err)
	}
	line, err := a.table.Load().answer(cache, strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte(line+"\n")); err != nil {
		return fmt.Errorf("%s: %q: %w", cache, line, err)
	}
	return nil
}
