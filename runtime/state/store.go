package state

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"

	"github.com/stackvm/stack/planner"
)

// ErrNotFound is returned for an object that is not recorded.
var ErrNotFound = errors.New("not found")

// Store is the state directory. Its methods may be called concurrently, by any
// number of processes as long as one of them writes.
type Store struct{ dir string }

// Open returns the store in dir, an absolute path. Nothing is made before the
// first write.
func Open(dir string) *Store { return &Store{dir: dir} }

// Dir is the directory.
func (s *Store) Dir() string { return s.dir }

// NewID returns a random object id, 64 hexadecimal digits.
func NewID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ValidID reports whether id has the form of an object's.
func ValidID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}

// validName reports whether a project's name can be a file's.
func validName(name string) bool {
	return name != "" && len(name) <= 200 && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}

func (s *Store) projectPath(name string) string {
	return filepath.Join(s.dir, "projects", name+".json")
}

// ReplicaDir holds a replica's files: its records and its log.
func (s *Store) ReplicaDir(id string) string { return filepath.Join(s.dir, "replicas", id) }

// MachineDir holds a machine's record, and in "run" what its driver keeps.
func (s *Store) MachineDir(id string) string { return filepath.Join(s.dir, "machines", id) }

// LogPath is the current log file of a replica.
func (s *Store) LogPath(id string) string { return filepath.Join(s.ReplicaDir(id), logFile) }

const (
	replicaFile  = "replica.json"
	resolvedFile = "resolved.json"
	machineFile  = "machine.json"
	storageFile  = "storage.json"
	logFile      = "log.json"
)

// PutProject records p.
func (s *Store) PutProject(p *Project) error {
	if !validName(p.Name) {
		return fmt.Errorf("recording project %q: not a name", p.Name)
	}
	return s.put(s.projectPath(p.Name), p)
}

// Project returns a project's record, or ErrNotFound.
func (s *Store) Project(name string) (*Project, error) {
	if !validName(name) {
		return nil, fmt.Errorf("project %q: %w", name, ErrNotFound)
	}
	return get[Project](s.projectPath(name), "project "+name)
}

// DeleteProject forgets a project.
func (s *Store) DeleteProject(name string) error {
	if !validName(name) {
		return nil
	}
	return removeFile(s.projectPath(name))
}

// Projects returns all projects by name. A record that cannot be read is part
// of the error, beside those that can.
func (s *Store) Projects() ([]*Project, error) {
	return list[Project](filepath.Join(s.dir, "projects"), ownFile, func(a, b *Project) int { return cmp.Compare(a.Name, b.Name) })
}

// providerPath is the file of what a provider brought up. It tells neither name.
func (s *Store) providerPath(project, service string) string {
	sum := sha256.Sum256([]byte(project + "\x00" + service))
	return filepath.Join(s.dir, "providers", hex.EncodeToString(sum[:])+".json")
}

// PutProvider records p.
func (s *Store) PutProvider(p *Provider) error {
	return s.put(s.providerPath(p.Project, p.Service), p)
}

// Provider returns what a provider brought up, or ErrNotFound.
func (s *Store) Provider(project, service string) (*Provider, error) {
	return get[Provider](s.providerPath(project, service), "provider "+service)
}

// DeleteProvider forgets what a provider has taken down.
func (s *Store) DeleteProvider(project, service string) error {
	return removeFile(s.providerPath(project, service))
}

// Providers returns all of a project by service, as the planner sees them.
func (s *Store) Providers(project string) (map[string]planner.Provider, error) {
	all, err := list[Provider](filepath.Join(s.dir, "providers"), func(e fs.DirEntry) (string, bool) {
		return e.Name(), strings.HasSuffix(e.Name(), ".json")
	}, func(a, b *Provider) int { return cmp.Compare(a.Service, b.Service) })
	if err != nil {
		return nil, err
	}
	var out map[string]planner.Provider
	for _, p := range all {
		if p.Project != project {
			continue
		}
		if out == nil {
			out = map[string]planner.Provider{}
		}
		out[p.Service] = planner.Provider{Ran: p.Ran, Variables: p.Digest(), DependsOn: p.DependsOn}
	}
	return out, nil
}

// PutReplica records r.
func (s *Store) PutReplica(r *Replica) error {
	if !ValidID(r.ID) {
		return fmt.Errorf("recording replica %q: not an id", r.ID)
	}
	return s.put(filepath.Join(s.ReplicaDir(r.ID), replicaFile), r)
}

// Replica returns a replica's record, or ErrNotFound.
func (s *Store) Replica(id string) (*Replica, error) {
	if !ValidID(id) {
		return nil, fmt.Errorf("replica %q: %w", id, ErrNotFound)
	}
	return get[Replica](filepath.Join(s.ReplicaDir(id), replicaFile), "replica "+id)
}

// Replicas returns all replicas, oldest first, those half made included. A
// record that cannot be read is part of the error, beside those that can.
func (s *Store) Replicas() ([]*Replica, error) {
	return list[Replica](filepath.Join(s.dir, "replicas"), within(replicaFile),
		func(a, b *Replica) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
}

// PutResolved records what a replica is started from.
func (s *Store) PutResolved(id string, r *Resolved) error {
	if !ValidID(id) {
		return fmt.Errorf("recording replica %q: not an id", id)
	}
	return s.put(filepath.Join(s.ReplicaDir(id), resolvedFile), r)
}

// Resolved returns what a replica is started from.
func (s *Store) Resolved(id string) (*Resolved, error) {
	return get[Resolved](filepath.Join(s.ReplicaDir(id), resolvedFile), "replica "+id)
}

// DeleteReplica removes everything recorded of a replica, its log too unless
// KeepLog has taken that. The
// record goes last, so that an interrupted removal is found again.
func (s *Store) DeleteReplica(id string) error {
	if !ValidID(id) {
		return nil
	}
	return removeDir(s.ReplicaDir(id), resolvedFile, replicaFile)
}

// PutMachine records m and makes the directory of its driver.
func (s *Store) PutMachine(m *Machine) error {
	if !ValidID(m.ID) {
		return fmt.Errorf("recording machine %q: not an id", m.ID)
	}
	return s.put(filepath.Join(s.MachineDir(m.ID), machineFile), m)
}

// Machine returns a machine's record, or ErrNotFound.
func (s *Store) Machine(id string) (*Machine, error) {
	if !ValidID(id) {
		return nil, fmt.Errorf("machine %q: %w", id, ErrNotFound)
	}
	return get[Machine](filepath.Join(s.MachineDir(id), machineFile), "machine "+id)
}

// Machines returns all machines, oldest first.
func (s *Store) Machines() ([]*Machine, error) {
	return list[Machine](filepath.Join(s.dir, "machines"), within(machineFile),
		func(a, b *Machine) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
}

// DeleteMachine removes everything recorded of a machine and its directory.
func (s *Store) DeleteMachine(id string) error {
	if !ValidID(id) {
		return nil
	}
	return removeDir(s.MachineDir(id), machineFile)
}

func (s *Store) networkPath(id string) string {
	return filepath.Join(s.dir, "networks", id+".json")
}

// PutNetwork records n.
func (s *Store) PutNetwork(n *Network) error {
	if !ValidID(n.ID) {
		return fmt.Errorf("recording network %q: not an id", n.ID)
	}
	return s.put(s.networkPath(n.ID), n)
}

// Networks returns all networks by name.
func (s *Store) Networks() ([]*Network, error) {
	return list[Network](filepath.Join(s.dir, "networks"), ownFile, func(a, b *Network) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
}

// DeleteNetwork forgets a network.
func (s *Store) DeleteNetwork(id string) error {
	if !ValidID(id) {
		return nil
	}
	return removeFile(s.networkPath(id))
}

func (s *Store) forwardPath(id string) string {
	return filepath.Join(s.dir, "forwards", id+".json")
}

// PutForward records f.
func (s *Store) PutForward(f *Forward) error {
	if !ValidID(f.ID) {
		return fmt.Errorf("recording forward %q: not an id", f.ID)
	}
	return s.put(s.forwardPath(f.ID), f)
}

// Forwards returns all forwards, oldest first.
func (s *Store) Forwards() ([]*Forward, error) {
	return list[Forward](filepath.Join(s.dir, "forwards"), ownFile,
		func(a, b *Forward) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
}

// DeleteForward forgets a forward.
func (s *Store) DeleteForward(id string) error {
	if !ValidID(id) {
		return nil
	}
	return removeFile(s.forwardPath(id))
}

// StorageDir holds the record of a storage machine, and the disk that outlives it.
func (s *Store) StorageDir(id string) string { return filepath.Join(s.dir, "storage", id) }

// PutStorage records a project's storage machine.
func (s *Store) PutStorage(st *Storage) error {
	if !ValidID(st.ID) {
		return fmt.Errorf("recording storage machine %q: not an id", st.ID)
	}
	return s.put(filepath.Join(s.StorageDir(st.ID), storageFile), st)
}

// Storages returns all storage machines by project.
func (s *Store) Storages() ([]*Storage, error) {
	return list[Storage](filepath.Join(s.dir, "storage"), within(storageFile),
		func(a, b *Storage) int { return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.ID, b.ID)) })
}

// DeleteStorage removes everything recorded of a storage machine.
func (s *Store) DeleteStorage(id string) error {
	if !ValidID(id) {
		return nil
	}
	return removeDir(s.StorageDir(id), storageFile)
}

// Sweep removes what interrupted writes and removals left: temporary files, and
// directories whose record was never written. Only the writer may call it, and
// not while it writes.
func (s *Store) Sweep() error {
	var faults *multierror.Error
	for _, kind := range []struct{ dir, record string }{{"projects", ""}, {"networks", ""}, {"forwards", ""}, {"replicas", replicaFile}, {"machines", machineFile}, {"storage", storageFile}, {"removed", removedFile}} {
		dir := filepath.Join(s.dir, kind.dir)
		entries, err := os.ReadDir(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				faults = multierror.Append(faults, err)
			}
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case strings.HasPrefix(e.Name(), tmpPrefix):
				faults = multierror.Append(faults, removeFile(path))
			case kind.record != "" && e.IsDir() && ValidID(e.Name()):
				if _, err := os.Lstat(filepath.Join(path, kind.record)); errors.Is(err, fs.ErrNotExist) {
					faults = multierror.Append(faults, os.RemoveAll(path))
					continue
				}
				inside, err := os.ReadDir(path)
				if err != nil {
					faults = multierror.Append(faults, err)
				}
				for _, f := range inside {
					if strings.HasPrefix(f.Name(), tmpPrefix) {
						faults = multierror.Append(faults, removeFile(filepath.Join(path, f.Name())))
					}
				}
			}
		}
	}
	return faults.ErrorOrNil()
}

func (s *Store) put(path string, v any) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return writeFile(path, v)
}

func get[T any](path, what string) (*T, error) {
	v := new(T)
	if err := readFile(path, v); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: %w", what, ErrNotFound)
		}
		return nil, err
	}
	return v, nil
}

// ownFile finds the records that are files of their own.
func ownFile(e fs.DirEntry) (string, bool) { return e.Name(), strings.HasSuffix(e.Name(), ".json") }

// within finds the record of objects that have a directory each.
func within(file string) func(fs.DirEntry) (string, bool) {
	return func(e fs.DirEntry) (string, bool) {
		return filepath.Join(e.Name(), file), e.IsDir() && ValidID(e.Name())
	}
}

func list[T any](dir string, record func(fs.DirEntry) (string, bool), order func(a, b *T) int) ([]*T, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var found []*T
	var faults *multierror.Error
	for _, e := range entries {
		name, ok := record(e)
		if !ok || strings.HasPrefix(e.Name(), tmpPrefix) {
			continue
		}
		v, err := get[T](filepath.Join(dir, name), name)
		switch {
		case errors.Is(err, ErrNotFound): // half written or just removed
		case err != nil:
			faults = multierror.Append(faults, err)
		default:
			found = append(found, v)
		}
	}
	slices.SortFunc(found, order)
	return found, faults.ErrorOrNil()
}

// removeDir removes a directory, the named files last and in order.
func removeDir(dir string, last ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var faults *multierror.Error
	for _, e := range entries {
		if !slices.Contains(last, e.Name()) {
			faults = multierror.Append(faults, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err := faults.ErrorOrNil(); err != nil {
		return err
	}
	for _, name := range last {
		if err := removeFile(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return removeFile(dir)
}
