package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// storage is the storage machine of a project: it has the disks of the volumes
// that several machines want, and serves them. Which those are the planner
// decides; that it runs while anybody mounts from it is kept true here.
type storage struct {
	id, project string // as in rec

	op opLock // one change of what it has or serves at a time; taken after replica.op

	// Guarded by Supervisor.mu; the maps in rec are replaced, not changed.
	rec     state.Storage
	host    *hosted // nil without a machine
	backoff time.Duration
}

const (
	// On every trunk: assignVLANs counts from the other end.
	storageVLAN = 4094
	// A storage machine caches files for all others.
	storageMachineMiB = 512
	// The disk of records holds a small file a client.
	recordsSerial = "records"
	recordsFile   = "records.img"
	recordsBytes  = 256 << 20
)

// Each project's storage network is its own, in no container's namespace: the
// same link-local addresses do for all, and are in nobody's way.
var (
	storageSubnet  = netip.MustParsePrefix("169.254.0.0/16")
	storageGateway = netip.MustParseAddr("169.254.0.1")
	storageServer  = netip.MustParseAddr("169.254.0.2")
)

// clientID is what a machine calls itself to the server: whoever knew it could
// take its locks away. The kernel takes no more than 63 characters.
func clientID(machine string) string { return machine[:min(32, len(machine))] }

// loadStorage brings a recorded storage machine back, before machines are adopted.
func (s *Supervisor) loadStorage(rec *state.Storage) error {
	if err := s.opt.Fabric.Create(storageNetwork(rec.ID, s.opt.MTU)); err != nil {
		return err
	}
	s.storages[rec.Project] = &storage{id: rec.ID, project: rec.Project, op: newOpLock(), rec: *rec}
	return nil
}

func storageNetwork(id string, mtu int) network.Config {
	return network.Config{ID: id, Subnets: []netip.Prefix{storageSubnet}, Gateways: []netip.Addr{storageGateway}, Internal: true, MTU: mtu}
}

// storageOf returns the storage machine of a project, or nil.
func (s *Supervisor) storageOf(project string) *storage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storages[project]
}

// newStorage records that a project has a storage machine, which is not started.
func (s *Supervisor) newStorage(project string) (*storage, error) {
	s.netMu.Lock() // one is made at a time
	defer s.netMu.Unlock()
	if st := s.storageOf(project); st != nil {
		return st, nil
	}
	rec := state.Storage{ID: state.NewID(), Project: project, Created: time.Now(), Volumes: map[string]uint32{}}
	st := &storage{id: rec.ID, project: project, op: newOpLock(), rec: rec}
	if err := s.opt.Fabric.Create(storageNetwork(st.id, s.opt.MTU)); err != nil {
		return nil, err
	}
	if err := s.opt.State.PutStorage(&st.rec); err != nil {
		return nil, errors.Join(err, s.opt.Fabric.Remove(st.id))
	}
	s.mu.Lock()
	s.storages[project] = st
	s.mu.Unlock()
	return st, nil
}

// changeStorage changes the record and has it on disk. The caller holds st.op.
func (s *Supervisor) changeStorage(st *storage, change func(*state.Storage)) error {
	s.mu.Lock()
	rec := st.rec
	rec.Volumes = maps.Clone(rec.Volumes)
	s.mu.Unlock()
	change(&rec)
	if err := s.opt.State.PutStorage(&rec); err != nil {
		return err
	}
	s.mu.Lock()
	st.rec = rec
	s.mu.Unlock()
	return nil
}

// storageState is a storage machine's record and its machine, if that can be
// spoken to.
func (s *Supervisor) storageState(st *storage) (state.Storage, *hosted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := st.host
	if h != nil && (h.client.Load() == nil || h.leaving != nil || h.killed || h.hasDied()) {
		h = nil
	}
	return st.rec, h
}

// attachVolume gives a volume to the storage machine. If that does not run, it
// will have it when it starts.
func (s *Supervisor) attachVolume(ctx context.Context, project, name string) error {
	st, err := s.newStorage(project)
	if err != nil {
		return err
	}
	if err := st.op.lock(ctx); err != nil {
		return err
	}
	defer st.op.unlock()
	rec, h := s.storageState(st)
	if rec.Volumes[name] != 0 {
		return nil
	}
	disk, err := s.volumeDisk(name, "the storage machine of "+project)
	if err != nil {
		return err
	}
	defer disk.Lock.Close() // the machine has its own
	// Recorded first: from now on no machine starts with it.
	if err := s.changeStorage(st, func(rec *state.Storage) { rec.Number++; rec.Volumes[name] = rec.Number }); err != nil {
		return err
	}
	if h == nil {
		return nil
	}
	if err := h.m.AddDisk(ctx, disk); err != nil {
		return errors.Join(fmt.Errorf("volume %s: %w", name, err), s.changeStorage(st, func(rec *state.Storage) { delete(rec.Volumes, name) }))
	}
	return s.serve(ctx, st)
}

// volumeDisk is a volume as a machine's disk, locked.
func (s *Supervisor) volumeDisk(name, holder string) (machine.Disk, error) {
	v, err := s.opt.Volumes.Get(name)
	if err != nil {
		return machine.Disk{}, err
	}
	lock, err := s.opt.Volumes.Lock(name, holder)
	if err != nil {
		return machine.Disk{}, err
	}
	return machine.Disk{
		Serial: volumeSerial(name), Kind: machine.DiskVolume, Lock: lock,
		Extents: []machine.Extent{{Path: v.Disk, Bytes: v.Bytes}},
	}, nil
}

// detachVolume takes a volume from the storage machine; nobody may have it
// mounted.
func (s *Supervisor) detachVolume(ctx context.Context, project, name string) error {
	st := s.storageOf(project)
	if st == nil {
		return nil
	}
	if err := st.op.lock(ctx); err != nil {
		return err
	}
	defer st.op.unlock()
	rec, h := s.storageState(st)
	if rec.Volumes[name] == 0 {
		return nil
	}
	for _, c := range s.storageClients(rec.ID) {
		if _, uses := c.rec.Storage.Volumes[name]; uses {
			return fmt.Errorf("volume %s: container %s mounts it from the storage machine", name, c.rec.Name)
		}
	}
	if err := s.changeStorage(st, func(rec *state.Storage) { delete(rec.Volumes, name) }); err != nil {
		return err
	}
	if h == nil {
		return nil
	}
	if err := s.serve(ctx, st); err != nil { // unmounts it
		return err
	}
	return h.m.RemoveDisk(ctx, volumeSerial(name))
}

// servedBy finds the storage machine that has a volume.
func (s *Supervisor) servedBy(volume string) *storage {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.storages {
		if st.rec.Volumes[volume] != 0 {
			return st
		}
	}
	return nil
}

// storageClients are the machines that mount from a storage machine.
func (s *Supervisor) storageClients(id string) []*hosted {
	s.mu.Lock()
	defer s.mu.Unlock()
	var clients []*hosted
	for _, h := range s.hosts {
		if h.rec.Storage != nil && h.rec.Storage.ID == id && !h.hasDied() {
			clients = append(clients, h)
		}
	}
	return clients
}

// serve tells the storage machine what it serves to whom. The caller holds st.op.
func (s *Supervisor) serve(ctx context.Context, st *storage) error {
	rec, h := s.storageState(st)
	if h == nil {
		return nil // it is told when it starts
	}
	want := wire.Serve{
		Interface: s.storageInterface(rec.ID, netip.PrefixFrom(storageServer, storageSubnet.Bits())), Records: recordsSerial,
	}
	for _, name := range sortedKeys(rec.Volumes) {
		v, err := s.opt.Volumes.Get(name)
		if err != nil {
			return err
		}
		want.Volumes = append(want.Volumes, wire.ServedVolume{Serial: volumeSerial(name), FSID: rec.Volumes[name], Bytes: v.Bytes})
	}
	for _, c := range s.storageClients(rec.ID) {
		s.mu.Lock()
		use := c.rec.Storage
		s.mu.Unlock()
		if use == nil {
			continue
		}
		client := wire.StorageClient{ID: clientID(c.id), Addr: use.Addr.Addr().String(), Volumes: map[string]bool{}}
		for name, readOnly := range use.Volumes {
			if rec.Volumes[name] != 0 {
				client.Volumes[volumeSerial(name)] = readOnly
			}
		}
		want.Clients = append(want.Clients, client)
	}
	slices.SortFunc(want.Clients, func(a, b wire.StorageClient) int { return cmp.Compare(a.ID, b.ID) })
	if err := h.client.Load().Serve(ctx, want); err != nil {
		return fmt.Errorf("the storage machine of project %s: %w", rec.Project, h.explain(err))
	}
	return nil
}

// storageMAC is a client's by the id of its machine. A server's is by the id of the
// storage, so that its successor has it too: clients would go on sending to the
// dead one for most of a minute, until they ask who has its address now.
func storageMAC(id string) net.HardwareAddr { return ipam.MAC(id, "storage") }

func (s *Supervisor) storageInterface(id string, addr netip.Prefix) wire.Interface {
	return wire.Interface{VLAN: storageVLAN, MAC: storageMAC(id).String(), MTU: s.opt.MTU, Addrs: []string{addr.String()}}
}

// attachStorage gives a machine its place on the storage network: as the server,
// or as one that mounts from it. What is there already stays.
func (s *Supervisor) attachStorage(h *hosted) error {
	s.mu.Lock()
	id, addr, mac := h.rec.Serves, storageServer, storageMAC(h.rec.Serves)
	if use := h.rec.Storage; use != nil {
		id, addr, mac = use.ID, use.Addr.Addr(), storageMAC(h.id)
	}
	s.mu.Unlock()
	if id == "" {
		return nil
	}
	return s.opt.Fabric.Attach(h.id, network.Endpoint{
		Network: id, VLAN: storageVLAN, MAC: mac, Addrs: []netip.Addr{addr}, Container: h.id, HostDeny: true,
	})
}

// knowStorage notes the machine of an earlier supervisor's storage.
func (s *Supervisor) knowStorage(h *hosted) {
	if h.rec.Serves == "" {
		return
	}
	if st := s.storageByID(h.rec.Serves); st != nil {
		s.mu.Lock()
		st.host = h
		s.mu.Unlock()
	}
}

// startStorage starts a project's storage machine, unless it runs.
func (s *Supervisor) startStorage(ctx context.Context, project string) error {
	st, err := s.newStorage(project)
	if err != nil {
		return err
	}
	if err := st.op.lock(ctx); err != nil {
		return err
	}
	defer st.op.unlock()
	return s.runStorage(ctx, st)
}

// runStorage is startStorage for one that holds st.op.
func (s *Supervisor) runStorage(ctx context.Context, st *storage) error {
	s.mu.Lock()
	h := st.host
	going := h != nil && (h.leaving != nil || h.killed || h.hasDied())
	s.mu.Unlock()
	switch {
	case going:
		select {
		case <-h.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case h != nil:
		return nil
	}
	if err := s.bootStorage(ctx, st); err != nil {
		return fmt.Errorf("starting the storage machine of project %s: %w", st.project, err)
	}
	s.mu.Lock()
	st.backoff = 0
	s.mu.Unlock()
	return nil
}

func (s *Supervisor) bootStorage(ctx context.Context, st *storage) error {
	rec, _ := s.storageState(st)
	records := filepath.Join(s.opt.State.StorageDir(rec.ID), recordsFile)
	if _, err := os.Stat(records); errors.Is(err, fs.ErrNotExist) {
		if err := s.opt.Scratch.Clone(records, recordsBytes); err != nil {
			return fmt.Errorf("making its disk: %w", err)
		}
	}
	disks := []machine.Disk{{Serial: recordsSerial, Kind: machine.DiskVolume, Extents: []machine.Extent{{Path: records, Bytes: recordsBytes}}}}
	defer func() {
		for _, d := range disks {
			if d.Lock != nil {
				d.Lock.Close() // the machine has its own
			}
		}
	}()
	for _, name := range sortedKeys(rec.Volumes) {
		d, err := s.volumeDisk(name, "the storage machine of "+rec.Project)
		if err != nil {
			return err
		}
		disks = append(disks, d)
	}
	h, err := s.bootBare(ctx, bare{name: "storage of " + rec.Project, memoryMiB: storageMachineMiB, serves: rec.ID, disks: disks, known: func(h *hosted) {
		s.mu.Lock()
		st.host = h
		s.mu.Unlock()
	}})
	if err != nil {
		return err
	}
	if err := s.serve(ctx, st); err != nil {
		s.kill(h)
		return err
	}
	return nil
}

// sharedVolumes are the volumes that a replica mounts from its project's storage
// machine, each with whether it only reads.
func (s *Supervisor) sharedVolumes(rec *state.Replica) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.storages[rec.Project]
	if st == nil {
		return nil
	}
	var shared map[string]bool
	for _, m := range rec.MachineMounts() {
		if m.Type != spec.MountVolume || st.rec.Volumes[m.Volume] == 0 {
			continue
		}
		if shared == nil {
			shared = map[string]bool{}
		}
		before, there := shared[m.Volume]
		shared[m.Volume] = m.ReadOnly && (before || !there)
	}
	return shared
}

// joinStorage has a machine mount the shared volumes of a replica: the storage
// machine runs and serves them to it when joinStorage returns. The container is
// told where to find them.
func (s *Supervisor) joinStorage(ctx context.Context, h *hosted, rec *state.Replica, c *wire.Container) error {
	shared := s.sharedVolumes(rec)
	if shared == nil {
		return nil
	}
	st := s.storageOf(rec.Project)
	if st == nil { // since a moment
		return fmt.Errorf("container %s: the storage machine of project %s was removed", rec.Name, rec.Project)
	}
	if err := st.op.lock(ctx); err != nil {
		return err
	}
	defer st.op.unlock()
	if err := s.runStorage(ctx, st); err != nil {
		return err
	}
	s.mu.Lock()
	use := state.StorageUse{ID: st.id, Volumes: map[string]bool{}}
	elsewhere := false
	if had := h.rec.Storage; had != nil {
		use.Addr, elsewhere = had.Addr, had.ID != use.ID
		maps.Copy(use.Volumes, had.Volumes)
	}
	s.mu.Unlock()
	if elsewhere {
		return fmt.Errorf("container %s: the machine it shares mounts from another project's storage machine", rec.Name)
	}
	for name, readOnly := range shared {
		before, there := use.Volumes[name]
		use.Volumes[name] = readOnly && (before || !there)
	}
	if !use.Addr.IsValid() {
		use.Addr = netip.PrefixFrom(s.freeStorageAddr(st.id), storageSubnet.Bits())
	}
	s.mu.Lock()
	h.rec.Storage = &use
	s.mu.Unlock()
	if err := s.putMachine(h); err != nil {
		return err
	}
	if err := s.attachStorage(h); err != nil {
		return err
	}
	err := s.serve(ctx, st)
	if _, runs := s.storageState(st); err != nil && runs == nil && ctx.Err() == nil {
		err = s.runStorage(ctx, st) // it has just died: the next one serves us from the start
	}
	if err != nil {
		return err
	}
	s.shareMounts(h, c)
	return nil
}

// shareMounts tells a container where to find what its machine mounts from the
// storage machine.
func (s *Supervisor) shareMounts(h *hosted, c *wire.Container) {
	s.mu.Lock()
	use := h.rec.Storage
	s.mu.Unlock()
	if use == nil {
		return
	}
	c.Storage = &wire.Storage{Interface: s.storageInterface(h.id, use.Addr), Server: storageServer.String(), Client: clientID(h.id)}
	serials := map[string]bool{}
	for name := range use.Volumes {
		serials[volumeSerial(name)] = true
	}
	c.Mounts = slices.Clone(c.Mounts)
	for i := range c.Mounts {
		if m := &c.Mounts[i]; m.Kind == wire.MountVolume && serials[m.Source] {
			m.Kind = wire.MountShared
		}
	}
}

// freeStorageAddr is the lowest address that no machine on a storage network has.
// The caller holds its op.
func (s *Supervisor) freeStorageAddr(id string) netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := map[netip.Addr]bool{storageGateway: true, storageServer: true}
	for _, h := range s.hosts {
		if use := h.rec.Storage; use != nil && use.ID == id {
			taken[use.Addr.Addr()] = true
		}
	}
	addr := storageServer
	for taken[addr] {
		addr = addr.Next()
	}
	return addr
}

// leaveStorage takes from a machine what a replica that has left it mounted, and
// from one that has ended its place. A storage machine that has ended is started
// again if anybody mounts from it.
func (s *Supervisor) leaveStorage(h *hosted) {
	s.mu.Lock()
	use, serves := h.rec.Storage, h.rec.Serves
	s.mu.Unlock()
	switch {
	case serves != "":
		s.storageEnded(h)
	case use != nil:
		s.clientLeft(h, use)
	}
}

// trimStorage takes from a machine that goes on what only a replica mounted that
// has left it.
func (s *Supervisor) trimStorage(ctx context.Context, h *hosted) {
	s.mu.Lock()
	use := h.rec.Storage
	var left []*state.Replica
	for _, r := range h.replicas {
		left = append(left, clone(&r.rec))
	}
	s.mu.Unlock()
	if use == nil {
		return
	}
	volumes := map[string]bool{}
	for _, rec := range left {
		for name, readOnly := range s.sharedVolumes(rec) {
			before, there := volumes[name]
			volumes[name] = readOnly && (before || !there)
		}
	}
	st := s.storageByID(use.ID)
	if maps.Equal(volumes, use.Volumes) || st == nil || st.op.lock(ctx) != nil {
		return
	}
	defer st.op.unlock()
	s.mu.Lock()
	h.rec.Storage = &state.StorageUse{ID: use.ID, Addr: use.Addr, Volumes: volumes}
	s.mu.Unlock()
	s.warn("taking a volume from a machine", s.serve(ctx, st), "machine", h.rec.Name)
}

func (s *Supervisor) storageByID(id string) *storage {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.storages {
		if st.id == id {
			return st
		}
	}
	return nil
}

func (s *Supervisor) clientLeft(h *hosted, use *state.StorageUse) {
	s.warnDetach(h, use.ID)
	st := s.storageByID(use.ID)
	if st == nil {
		return
	}
	s.spawn(func() {
		if st.op.lock(s.ctx) != nil {
			return
		}
		s.warn("taking a machine's locks", s.serve(s.ctx, st), "machine", h.rec.Name)
		st.op.unlock()
		s.settleStorage(st.project)
	})
}

func (s *Supervisor) warnDetach(h *hosted, id string) {
	if err := s.opt.Fabric.Detach(h.id, id, h.id); err != nil {
		s.log.Debug("detaching", "machine", h.rec.Name, "err", err) // it was not attached
	}
}

// storageEnded notes that a storage machine has ended, and starts it again unless
// that was asked for.
func (s *Supervisor) storageEnded(h *hosted) {
	s.warnDetach(h, h.rec.Serves)
	st := s.storageByID(h.rec.Serves)
	if st == nil {
		return
	}
	s.mu.Lock()
	if st.host == h {
		st.host = nil
	}
	asked := h.farewell != nil || h.killed
	s.mu.Unlock()
	if h.m != nil && !asked { // else an earlier supervisor's: settleStorages sees to it
		s.log.Warn("a storage machine crashed: it is started again", "project", st.project, "console", lastLines(h.m.ConsoleTail(), crashLines))
		s.spawn(func() { s.reviveStorage(st) })
	}
}

// reviveStorage starts a storage machine that somebody mounts from, as often as
// it takes: their containers wait for it.
func (s *Supervisor) reviveStorage(st *storage) {
	for len(s.storageClients(st.id)) > 0 {
		err := s.startStorage(s.ctx, st.project)
		if err == nil || s.ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		st.backoff = min(max(2*st.backoff, firstBackoff), lastBackoff)
		wait := st.backoff
		s.mu.Unlock()
		s.warn("starting a storage machine", err, "project", st.project)
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
			return
		}
	}
}

// settleStorage ends a storage machine that nobody mounts from any more, unless a
// change of its project is under way, which settles that itself.
func (s *Supervisor) settleStorage(project string) {
	if busy, _ := s.turns.busy(); slices.Contains(busy, project) {
		return
	}
	st := s.storageOf(project)
	if st == nil || !s.idleStorage(st) {
		return
	}
	s.spawn(func() { s.warn("ending a storage machine", s.stopStorage(s.ctx, project), "project", project) })
}

// idleStorage tells whether nobody mounts from a storage machine that runs, nor is
// about to.
func (s *Supervisor) idleStorage(st *storage) bool {
	if len(s.storageClients(st.id)) > 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.host == nil {
		return false
	}
	for _, r := range s.replicas {
		if r.rec.Project != st.project || !isUp(r.rec.Status) && r.rec.Status != planner.StatusRestarting && r.host == nil {
			continue
		}
		for v := range st.rec.Volumes {
			if r.rec.Uses(v) {
				return false
			}
		}
	}
	return true
}

// stopStorage ends a project's storage machine if nobody mounts from it.
func (s *Supervisor) stopStorage(ctx context.Context, project string) error {
	st := s.storageOf(project)
	if st == nil {
		return nil
	}
	if err := st.op.lock(ctx); err != nil {
		return err
	}
	defer st.op.unlock()
	s.mu.Lock()
	h := st.host
	s.mu.Unlock()
	if h == nil || len(s.storageClients(st.id)) > 0 {
		return nil
	}
	if h.client.Load() == nil {
		s.kill(h)
		return nil
	}
	return s.endBare(h)
}

// stopStorages ends every storage machine that nobody mounts from.
func (s *Supervisor) stopStorages(ctx context.Context) {
	s.mu.Lock()
	projects := sortedKeys(s.storages)
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, project := range projects {
		wg.Go(func() { s.warn("ending a storage machine", s.stopStorage(ctx, project), "project", project) })
	}
	wg.Wait()
}

// removeStorage ends a project's storage machine and forgets it. The volumes stay
// as they are.
func (s *Supervisor) removeStorage(ctx context.Context, project string) error {
	st := s.storageOf(project)
	if st == nil {
		return nil
	}
	if err := s.stopStorage(ctx, project); err != nil {
		return err
	}
	if clients := s.storageClients(st.id); len(clients) > 0 {
		return fmt.Errorf("the storage machine of project %s: container %s mounts from it", project, clients[0].rec.Name)
	}
	if err := s.opt.State.DeleteStorage(st.id); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.storages, project)
	s.mu.Unlock()
	return s.opt.Fabric.Remove(st.id)
}

// settleStorages goes on with the storage machines of an earlier supervisor: what
// they serve may not be what they were last told, and one may have ended.
func (s *Supervisor) settleStorages() {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.storages))
	s.mu.Unlock()
	for _, st := range all {
		s.spawn(func() {
			_, h := s.storageState(st)
			switch {
			case h == nil:
				s.reviveStorage(st)
			case st.op.lock(s.ctx) == nil:
				s.warn("telling a storage machine what it serves", s.serve(s.ctx, st), "project", st.project)
				st.op.unlock()
				s.settleStorage(st.project)
			}
		})
	}
}

// storageHost is a storage machine that can be spoken to, started for that if need
// be.
func (s *Supervisor) storageHost(ctx context.Context, st *storage) (*hosted, error) {
	if err := s.startStorage(ctx, st.project); err != nil {
		return nil, err
	}
	_, h := s.storageState(st)
	if h == nil {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("the storage machine of project %s is just ending: try again", st.project)}
	}
	return h, nil
}
