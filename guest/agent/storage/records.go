//go:build linux

package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// records are the clients that hold state, on a disk. The kernel says who comes
// and goes; after a restart it asks who may claim what it had, and gives nothing
// to others before all of those have, or the grace period is over.
//
// Two directories hold a file a client: "current" those of this run, "recovery"
// those of the run before, as long as the grace period lasts. A server that dies
// within it starts again from "recovery".
type records struct {
	dir string

	mu      sync.Mutex
	present []string        // ids of the machines that are there
	awaited map[string]bool // names that have not claimed theirs yet; nil: no grace period
}

const (
	currentDir  = "current"
	recoveryDir = "recovery"
)

// openRecords opens the records in dir, which it makes. present are the ids of
// the machines that are there: another has taken its state along.
func openRecords(dir string, present []string) (*records, error) {
	for _, d := range []string{dir, filepath.Join(dir, currentDir), filepath.Join(dir, recoveryDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return &records{dir: dir, present: present}, nil
}

// Commands of the kernel's upcall (linux/nfsd/cld.h).
const (
	cldCreate = iota
	cldRemove
	cldCheck
	cldGraceDone
	cldGraceStart
	cldGetVersion
)

// upcallVersion is the first that tells of clients at the start of a grace
// period; the next one adds Kerberos.
const upcallVersion = 1

// A message is version, command, status (2 bytes), number (4 bytes), and a length
// (2 bytes) with a name, all in the machine's order.
const (
	cldHeader  = 8
	cldMaxName = 1024 // NFS4_OPAQUE_LIMIT
	cldSize    = cldHeader + 2 + cldMaxName
)

type cldMessage struct {
	raw [cldSize]byte
}

func (m *cldMessage) command() byte { return m.raw[1] }

func (m *cldMessage) name() (string, error) {
	n := binary.NativeEndian.Uint16(m.raw[cldHeader:])
	if n == 0 || n > cldMaxName {
		return "", fmt.Errorf("a client's name has %d bytes", n)
	}
	return string(m.raw[cldHeader+2 : cldHeader+2+int(n)]), nil
}

func (m *cldMessage) setName(name string) {
	binary.NativeEndian.PutUint16(m.raw[cldHeader:], uint16(len(name)))
	copy(m.raw[cldHeader+2:], name)
}

func (m *cldMessage) setStatus(errno unix.Errno) {
	binary.NativeEndian.PutUint16(m.raw[2:], uint16(-int16(errno)))
}

// serve answers the kernel's upcalls until the machine ends. The pipe appears in
// dir when the server starts, which waits for a reader of it.
func (r *records) serve(dir string) error {
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE); err != nil {
		unix.Close(watch)
		return fmt.Errorf("watching %s: %w", dir, err)
	}
	go func() {
		if err := r.follow(watch, filepath.Join(dir, "cld")); err != nil {
			fmt.Fprintln(os.Stderr, "agent: keeping the NFS server's records:", err)
		}
	}()
	return nil
}

func (r *records) follow(watch int, path string) error {
	defer unix.Close(watch)
	var pipe int
	for {
		var err error
		if pipe, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
			break
		}
		if err != unix.ENOENT {
			return err
		}
		if _, err := unix.Read(watch, make([]byte, 4096)); err != nil && err != unix.EINTR {
			return err
		}
	}
	defer unix.Close(pipe)
	for {
		// A pipe of rpc_pipefs gives nothing at all when it has nothing.
		ready := []unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
			return err
		}
		if ready[0].Revents&unix.POLLIN == 0 {
			if ready[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
				return errors.New("the kernel closed its pipe")
			}
			continue
		}
		var m cldMessage
		n, err := unix.Read(pipe, m.raw[:])
		if err == unix.EAGAIN || err == unix.EINTR || n == 0 {
			continue
		}
		if err != nil {
			return err
		}
		if n != cldSize {
			return fmt.Errorf("an upcall of %d bytes", n)
		}
		if err := r.answer(&m, func(m *cldMessage) error {
			_, err := unix.Write(pipe, m.raw[:])
			return err
		}); err != nil {
			return err
		}
	}
}

// answer carries one upcall out. A record that cannot be kept is an error to the
// kernel, which then gives the client nothing.
func (r *records) answer(m *cldMessage, reply func(*cldMessage) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.do(m, reply)
	m.setStatus(0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent: keeping the NFS server's records:", err)
		m.setStatus(unix.EIO)
	}
	return reply(m)
}

func (r *records) do(m *cldMessage, reply func(*cldMessage) error) error {
	switch m.command() {
	case cldGetVersion:
		m.raw[cldHeader] = upcallVersion
		return nil
	case cldGraceStart:
		return r.graceStart(m, reply)
	case cldGraceDone:
		r.awaited = nil
		return r.empty(recoveryDir)
	}
	name, err := m.name()
	if err != nil {
		return err
	}
	switch m.command() {
	case cldCreate:
		delete(r.awaited, name)
		return r.put(name)
	case cldRemove:
		delete(r.awaited, name)
		return errors.Join(r.drop(currentDir, name), r.drop(recoveryDir, name))
	case cldCheck:
		_, err := os.Stat(r.path(recoveryDir, name))
		return err
	}
	return fmt.Errorf("unknown command %d", m.command())
}

func (r *records) path(dir, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(r.dir, dir, hex.EncodeToString(sum[:]))
}

// put records a client and has that on the disk.
func (r *records) put(name string) error {
	f, err := os.OpenFile(r.path(currentDir, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(name)
	return errors.Join(err, f.Sync(), f.Close(), r.sync(currentDir))
}

func (r *records) drop(dir, name string) error {
	err := os.Remove(r.path(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, r.sync(dir))
}

func (r *records) sync(dir string) error {
	d, err := os.Open(filepath.Join(r.dir, dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (r *records) empty(dir string) error {
	names, err := r.names(dir)
	for _, name := range names {
		err = errors.Join(err, r.drop(dir, name))
	}
	return err
}

// names are the clients recorded in a directory. One whose record was being
// written when the machine died had nothing yet.
func (r *records) names(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, dir))
	var names []string
	for _, e := range entries {
		path := filepath.Join(r.dir, dir, e.Name())
		text, readErr := os.ReadFile(path)
		switch {
		case readErr != nil:
			err = errors.Join(err, readErr)
		case r.path(dir, string(text)) != path:
			err = errors.Join(err, os.Remove(path))
		default:
			names = append(names, string(text))
		}
	}
	return names, err
}

// graceStart tells the kernel who may claim what it had.
func (r *records) graceStart(m *cldMessage, reply func(*cldMessage) error) error {
	before, err := r.names(recoveryDir)
	if err != nil {
		return err
	}
	if len(before) > 0 {
		// The last server died in its own grace period: who came back to it is
		// among those who may come back to this one.
		if err := r.empty(currentDir); err != nil {
			return err
		}
	} else {
		current, recovery := filepath.Join(r.dir, currentDir), filepath.Join(r.dir, recoveryDir)
		if err := errors.Join(os.Remove(recovery), os.Rename(current, recovery), os.Mkdir(current, 0o700), r.sync(".")); err != nil {
			return err
		}
		if before, err = r.names(recoveryDir); err != nil {
			return err
		}
	}
	r.awaited = map[string]bool{}
	for _, name := range before {
		if !r.isPresent(name) {
			if err := r.drop(recoveryDir, name); err != nil {
				return err
			}
			continue
		}
		m.setStatus(unix.EINPROGRESS)
		m.setName(name)
		if err := reply(m); err != nil {
			return err
		}
		r.awaited[name] = true
	}
	return nil
}

// isPresent tells whether the machine of a client is there. The kernel's client
// names itself with the id that its agent was given.
func (r *records) isPresent(name string) bool {
	for _, id := range r.present {
		if strings.Contains(name, id) {
			return true
		}
	}
	return false
}

// keepOnly notes which machines are there. Of those that are gone nobody comes
// back: nobody waits for them.
func (r *records) keepOnly(present []string) error {
	r.mu.Lock()
	r.present = present
	waited := len(r.awaited) > 0
	var gone []string
	for name := range r.awaited {
		if !r.isPresent(name) {
			gone = append(gone, name)
		}
	}
	var err error
	for _, name := range gone {
		delete(r.awaited, name)
		err = errors.Join(err, r.drop(recoveryDir, name))
	}
	over := waited && len(r.awaited) == 0
	r.mu.Unlock()
	if err != nil || !over {
		return err
	}
	return write(control+"v4_end_grace", "Y") // an upcall follows
}
