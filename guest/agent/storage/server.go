//go:build linux

package storage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

const (
	control = "/proc/fs/nfsd/"
	port    = 2049

	// A client that is silent for this long loses its locks to whoever wants them;
	// an idle one learns as soon of a server's restart. One whose machine has ended
	// is let go of at once, by the host's word.
	leaseSeconds = 10
	// How long after a restart clients that held locks may claim them before
	// anybody else can have any. It ends as soon as all of them have: this bounds
	// only the wait for one that cannot be reached though its machine runs.
	graceSeconds = 90
	// Of eight, a few may wait for the disk while the others answer.
	threads = 8
	// The kernel would take 64 KiB in a machine as small as this.
	maxTransfer = 1 << 20
)

// Server makes the machine serve volumes.
type Server struct {
	disks *disk.Store

	mu      sync.Mutex // one Serve at a time
	link    link
	started bool
	records *records

	recordsDisk *disk.Mount
	volumes     map[string]*disk.Mount // by serial

	answers answers
}

// NewServer returns a server that serves nothing, and costs nothing, before the
// first Serve.
func NewServer(disks *disk.Store) *Server {
	return &Server{disks: disks, volumes: map[string]*disk.Mount{}}
}

// Serve makes what the machine serves be as asked, whatever it was. A client that
// is not named any more loses its locks, and a volume is unmounted when Serve
// returns.
func (s *Server) Serve(ctx context.Context, want *wire.Serve) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	table, err := newTable(want)
	if err != nil {
		return &wire.Error{Code: wire.CodeInvalid, Message: err.Error()}
	}
	if err := s.link.up(&want.Interface); err != nil {
		return err
	}
	for _, v := range want.Volumes {
		if s.volumes[v.Serial] != nil {
			continue
		}
		m, err := s.disks.Writable(ctx, v.Serial, v.Bytes)
		if err != nil {
			return err
		}
		s.volumes[v.Serial] = m
		// A client that only reads could not make it.
		if err := os.Mkdir(filepath.Join(m.Dir, disk.Files), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("disk %q: %w", v.Serial, err)
		}
	}
	s.answers.set(table)
	if !s.started {
		if err := s.start(ctx, want, table); err != nil {
			return fmt.Errorf("starting the NFS server: %w", err)
		}
		s.started = true
	} else if err := flush(); err != nil {
		return err
	}
	if err := s.records.keepOnly(table.ids()); err != nil {
		return err
	}
	if err := expire(table); err != nil {
		return err
	}
	return s.release(want)
}

// Close ends the server and unmounts everything. Whatever clients hold they may
// claim from its successor.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		return nil
	}
	errs := []error{write(control+"threads", "0"), flush()}
	for serial, m := range s.volumes {
		delete(s.volumes, serial)
		errs = append(errs, m.Release())
	}
	return errors.Join(append(errs, s.recordsDisk.Release())...)
}

// release unmounts the volumes that are not served any more.
func (s *Server) release(want *wire.Serve) error {
	served := map[string]bool{}
	for _, v := range want.Volumes {
		served[v.Serial] = true
	}
	for serial, m := range s.volumes {
		if served[serial] {
			continue
		}
		// Whoever had locks on it is no longer to have any.
		if err := write(control+"unlock_filesystem", m.Dir); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
		delete(s.volumes, serial)
		if err := m.Release(); err != nil {
			return err
		}
	}
	return nil
}

// start brings the kernel's server up.
func (s *Server) start(ctx context.Context, want *wire.Serve, table *table) error {
	var err error
	if s.recordsDisk, err = s.disks.Writable(ctx, want.Records, 0); err != nil {
		return err
	}
	if s.records, err = openRecords(filepath.Join(s.recordsDisk.Dir, "clients"), table.ids()); err != nil {
		return err
	}
	const pipes = "/run/rpc_pipefs"
	if err := os.MkdirAll(pipes, 0o700); err != nil {
		return err
	}
	for _, fs := range []struct{ kind, dir string }{{"nfsd", control}, {"rpc_pipefs", pipes}} {
		if err := unix.Mount(fs.kind, fs.dir, fs.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mounting %s: %w", fs.kind, err)
		}
	}
	for _, setting := range []struct{ file, value string }{
		{"versions", "-3 -4.0 +4 +4.1 +4.2"}, // version 3 alone wants rpcbind; 4.0 has no sessions
		{"nfsv4leasetime", strconv.Itoa(leaseSeconds)},
		{"nfsv4gracetime", strconv.Itoa(graceSeconds)},
		{"max_block_size", strconv.Itoa(maxTransfer)},
	} {
		if err := write(control+setting.file, setting.value); err != nil {
			return err
		}
	}
	if err := listen(&want.Interface); err != nil {
		return err
	}
	if err := s.answers.serve(); err != nil {
		return err
	}
	if err := s.records.serve(pipes + "/nfsd"); err != nil {
		return err
	}
	return write(control+"threads", strconv.Itoa(threads))
}

// listen gives the kernel a socket on the storage network. Written as "tcp 2049"
// it would ask rpcbind.
func listen(i *wire.Interface) error {
	addrs, err := prefixes(i)
	if err != nil {
		return err
	}
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addrs[0].Addr(), port)))
	if err != nil {
		return err
	}
	f, err := l.File()
	l.Close()
	if err != nil {
		return err
	}
	defer f.Close() // the kernel has it
	return write(control+"portlist", strconv.Itoa(int(f.Fd())))
}

// expire takes their state from clients whose machine has ended.
func expire(t *table) error {
	infos, err := filepath.Glob(control + "clients/*/info")
	if err != nil {
		return err
	}
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
			continue // it has just gone
		}
		if err != nil {
			return err
		}
		if addr, ok := clientAddr(string(text)); ok && t.clients[addr] != nil {
			continue
		}
		err = write(filepath.Join(filepath.Dir(info), "ctl"), "expire")
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENXIO) {
			return err
		}
	}
	return nil
}

// clientAddr finds the address in what the kernel says of a client.
func clientAddr(info string) (netip.Addr, bool) {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, "address: "); ok {
			at, err := netip.ParseAddrPort(strings.Trim(strings.TrimSpace(value), `"`))
			return at.Addr().Unmap(), err == nil
		}
	}
	return netip.Addr{}, false
}

// flush makes the kernel ask again what it may do.
func flush() error {
	for _, cache := range caches {
		if err := write("/proc/net/rpc/"+cache+"/flush", strconv.FormatInt(time.Now().Unix(), 10)); err != nil {
			return err
		}
	}
	return nil
}

func write(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
