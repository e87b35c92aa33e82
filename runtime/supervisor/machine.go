package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/control"
	"github.com/stackvm/stack/runtime/share"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

const (
	// An agent answers within a second; under emulation, on a busy host, later.
	answerTimeout = 2 * time.Minute
	// How long past its grace a machine may take to say farewell.
	farewellTimeout = 30 * time.Second
	// The pause between looks for space on a full host disk: nothing tells when
	// there is some again.
	spaceInterval = time.Second
	// The pause before a log that could not be written is tried again.
	logRetry = time.Second
	// How much of a crashed kernel's console is kept in a record.
	crashLines = 20
)

// hosted is a running machine.
type hosted struct {
	id     string
	m      machine.Machine
	client atomic.Pointer[control.Client] // nil until the agent has answered
	share  ShareServer                    // nil without host folders

	ctx     context.Context // of its goroutines; ends with it, or with the supervisor
	cancel  context.CancelFunc
	loops   sync.WaitGroup
	settled chan struct{} // closed when no more loops are added
	held    chan struct{} // holds a token when the machine was paused for want of space
	died    chan struct{} // closed when its process has ended
	ended   chan struct{} // closed when all that was its is cleared up

	save    sync.Mutex // one write of the record at a time
	members sync.Mutex // one replica at a time enters or leaves; taken before Supervisor.mu

	// Guarded by Supervisor.mu; maps and slices in rec are replaced, not changed.
	rec      state.Machine
	replicas []*replica      // whose container it has
	hooks    map[string]bool // by id: pre_start hooks that run in it
	leaving  chan struct{}   // closed when the answer to a shutdown is there
	full     bool            // paused: the host has no space for one of its disks
	farewell *wire.Farewell
	killed   bool // by us
}

// Serials are how a machine's disks are told apart. Each is derived from what
// the disk holds, so a record needs not list them.
func imageSerial(id string) string    { return "i" + short(strings.TrimPrefix(id, "sha256:")) }
func scratchSerial(id string) string  { return "c" + short(id) }
func volumeSerial(name string) string { return "v" + digest(name) }
func shareName(path string) string    { return "s" + digest(path) }

func short(id string) string { return id[:min(16, len(id))] }

func digest(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:8])
}

func keptName(machineID, handle string) string { return "machine/" + machineID + "/" + handle }

// boot makes a machine for a replica and its container in it, nothing started.
// The caller holds r.op.
func (s *Supervisor) boot(ctx context.Context, r *replica) (err error) {
	rec := s.snapshot(r)
	resolved, err := s.opt.State.Resolved(rec.ID)
	if err != nil {
		return fmt.Errorf("starting container %s: %w", rec.Name, err)
	}
	guest, err := s.opt.Guest()
	if err != nil {
		return err
	}
	m := state.Machine{
		ID: state.NewID(), Name: rec.Name, Created: time.Now(), Phase: state.Making,
		VCPUs: rec.VCPUs, MemoryMiB: rec.MemoryMiB, MTU: s.opt.MTU, Guest: guest.Digest,
		Replicas: []string{rec.ID},
	}
	mac := ipam.MAC(m.ID, "trunk")
	m.MAC = mac.String()
	if err := s.opt.State.PutMachine(&m); err != nil {
		return err
	}
	h := s.newHosted(m, r)
	defer func() {
		if err != nil {
			s.abandon(h)
			err = fmt.Errorf("container %s: %w", rec.Name, err)
		}
	}()
	dir := filepath.Join(s.opt.State.MachineDir(m.ID), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	disks, err := s.disks(ctx, rec)
	defer func() {
		for _, d := range disks {
			if d.Lock != nil {
				d.Lock.Close() // the machine has its own
			}
		}
	}()
	if err != nil {
		return err
	}
	cfg := machine.Config{
		ID: m.ID, Name: rec.Name, Dir: dir, VCPUs: m.VCPUs, MemoryMiB: m.MemoryMiB,
		Kernel: guest.Kernel, Initramfs: guest.Initramfs, Cmdline: rec.KernelArgs, Key: wire.NewKey(),
		Disks: disks, MAC: mac, MTU: m.MTU,
	}
	if shares := s.shares(rec); len(shares) > 0 {
		if h.share, err = s.opt.Shares.Serve(shares, cfg.Key); err != nil {
			return err
		}
		cfg.Shares = h.share.Port()
		defer cfg.Shares.Close()
		record := h.share.Record()
		h.rec.Shares = &record
		if err := s.putMachine(h); err != nil {
			return err
		}
	}
	started, err := s.launch(ctx, h, cfg)
	if started != nil {
		defer h.settle()
	}
	if err != nil {
		return err
	}
	endpoints := s.assignVLANs(h, r)
	s.mu.Lock()
	h.rec.Record, h.rec.Phase = started.Record(), state.Made
	s.mu.Unlock()
	if err := s.putMachine(h); err != nil {
		return err
	}
	s.updateLater(r, func(rec *state.Replica) { rec.Machine, rec.Endpoints = m.ID, endpoints })
	if err := s.opt.Fabric.Plug(m.ID, started.Handles()[machine.HandleTrunk]); err != nil {
		return err
	}
	if err := s.connect(ctx, h); err != nil {
		return err
	}
	container := resolved.Container
	s.interfaces(&container, endpoints)
	if err := s.joinStorage(ctx, h, rec, &container); err != nil {
		return err
	}
	if err := h.client.Load().Create(ctx, container); err != nil {
		return h.explain(err)
	}
	s.relaySockets(h, rec.ID, rec.Mounts)
	return nil
}

// launch starts a machine, makes it known and has the keeper hold what must
// outlive this process. Where it returns a machine, with an error too, the caller
// calls h.settle.
func (s *Supervisor) launch(ctx context.Context, h *hosted, cfg machine.Config) (machine.Machine, error) {
	started, err := s.opt.Driver.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if !s.begin(h, started) {
		s.warn("ending a machine", started.Kill(context.WithoutCancel(ctx)))
		return nil, errClosing
	}
	kept := map[string]*os.File{}
	for name, f := range started.Handles() {
		kept[keptName(h.id, name)] = f
	}
	return started, s.opt.Keeper.Put(kept)
}

// disks are those of a replica's machine, volumes locked.
func (s *Supervisor) disks(ctx context.Context, rec *state.Replica) ([]machine.Disk, error) {
	var disks []machine.Disk
	add := func(d machine.Disk) {
		if !slices.ContainsFunc(disks, func(o machine.Disk) bool { return o.Serial == d.Serial }) {
			disks = append(disks, d)
		} else if d.Lock != nil {
			d.Lock.Close()
		}
	}
	imageDisk := func(ref string) error {
		img, err := s.opt.Images.Get(ref, rec.Platform)
		if err != nil {
			return err
		}
		d, err := s.opt.Images.Disk(img)
		if err != nil {
			return err
		}
		out := machine.Disk{Serial: imageSerial(img.ID), Kind: machine.DiskImage}
		for _, e := range d.Extents {
			out.Extents = append(out.Extents, machine.Extent{Path: e.Path, Bytes: e.Bytes})
		}
		add(out)
		return nil
	}
	for _, id := range imagesOf(rec) {
		if err := imageDisk(id); err != nil {
			return disks, err
		}
	}
	add(machine.Disk{
		Serial: scratchSerial(rec.ID), Kind: machine.DiskScratch,
		Extents: []machine.Extent{{Path: s.scratchPath(rec.ID), Bytes: rec.ScratchBytes}},
	})
	seen := s.sharedVolumes(rec) // the storage machine has those
	if seen == nil {
		seen = map[string]bool{}
	}
	for _, m := range rec.MachineMounts() {
		switch m.Type {
		case spec.MountVolume:
			if _, there := seen[m.Volume]; there {
				continue
			}
			seen[m.Volume] = true
			d, err := s.volumeDisk(m.Volume, rec.Name)
			if err != nil {
				return disks, s.volumeBusy(rec, m.Volume, err)
			}
			add(d)
		case spec.MountImage:
			if err := imageDisk(m.Source); err != nil {
				return disks, err
			}
		}
	}
	return disks, nil
}

// imagesOf are the images of a replica's container and its hooks.
func imagesOf(rec *state.Replica) []string {
	ids := []string{rec.ImageID}
	for _, h := range rec.PreStart {
		ids = append(ids, h.ImageID)
	}
	return ids
}

// scratchPath is the writable disk of a container.
func (s *Supervisor) scratchPath(id string) string {
	return filepath.Join(s.opt.State.ReplicaDir(id), "scratch.img")
}

// volumeBusy names the service that holds a volume.
func (s *Supervisor) volumeBusy(rec *state.Replica, name string, cause error) error {
	var busy *volume.BusyError
	if !errors.As(cause, &busy) {
		return cause
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.replicas {
		if o.rec.ID == rec.ID || o.host == nil {
			continue
		}
		for _, m := range o.rec.MachineMounts() {
			if m.Type == spec.MountVolume && m.Volume == name {
				return fmt.Errorf("volume %q of service %q is in use by container %s of service %q: two machines cannot write one volume",
					name, rec.Service, o.rec.Name, o.rec.Service)
			}
		}
	}
	return fmt.Errorf("service %q: %w", rec.Service, cause)
}

func (s *Supervisor) shares(rec *state.Replica) []share.Share {
	var shares []share.Share
	seen := map[string]bool{}
	for _, m := range append(rec.MachineMounts(), rec.GroupBinds...) {
		if name := bindShare(m); m.Type == spec.MountBind && !seen[name] {
			seen[name] = true
			shares = append(shares, share.Share{Name: name, Path: m.Source, ReadOnly: m.ReadOnly})
		}
	}
	return shares
}

// bindShare names a bind: the same folder may be there twice, once read-only.
func bindShare(m state.MountUse) string {
	if m.ReadOnly {
		return shareName(m.Source + "\x00ro")
	}
	return shareName(m.Source)
}

func (s *Supervisor) newHosted(rec state.Machine, replicas ...*replica) *hosted {
	h := &hosted{
		id: rec.ID, rec: rec, replicas: replicas,
		hooks: map[string]bool{}, settled: make(chan struct{}), held: make(chan struct{}, 1), died: make(chan struct{}), ended: make(chan struct{}),
	}
	h.ctx, h.cancel = context.WithCancel(s.ctx)
	return h
}

// begin makes a running machine known and watches it; it reports false when the
// supervisor is closing. The caller calls settle when it starts no more loops.
func (s *Supervisor) begin(h *hosted, m machine.Machine) bool {
	h.m = m
	ok := s.spawn(func() { s.watch(h) })
	if !ok {
		h.m = nil
		return false
	}
	s.mu.Lock()
	s.hosts[h.id] = h
	for _, r := range h.replicas {
		r.host = h
	}
	s.mu.Unlock()
	h.loops.Go(func() { s.notices(h) })
	return true
}

// putMachine writes down a machine's record as it is.
func (s *Supervisor) putMachine(h *hosted) error {
	h.save.Lock()
	defer h.save.Unlock()
	s.mu.Lock()
	rec := h.rec
	s.mu.Unlock()
	return s.opt.State.PutMachine(&rec)
}

func (h *hosted) settle() { close(h.settled) }

// watch waits for the machine's process to end and then clears up.
func (s *Supervisor) watch(h *hosted) {
	if _, err := h.m.Wait(h.ctx); err != nil {
		return // let go of
	}
	close(h.died)
	<-h.settled
	h.loops.Wait() // what it had said is heard
	s.machineEnded(h)
}

// abandon ends a machine that could not be made whole, before anything ran.
func (s *Supervisor) abandon(h *hosted) {
	if h.m == nil {
		h.cancel()
		if h.share != nil {
			h.share.End()
		}
		s.warn("removing a machine", s.opt.State.DeleteMachine(h.id))
		return
	}
	s.kill(h)
}

// kill ends a machine without a word to its agent, and waits until all is
// cleared up.
func (s *Supervisor) kill(h *hosted) {
	s.mu.Lock()
	h.killed = true
	s.mu.Unlock()
	s.warn("ending a machine", h.m.Kill(context.WithoutCancel(s.ctx)), "machine", h.rec.Name)
	select {
	case <-h.ended:
	case <-s.ctx.Done():
	}
}

// letGo ends the goroutines of a machine and leaves it running.
func (h *hosted) letGo() error {
	h.cancel()
	h.loops.Wait()
	var err error
	if client := h.client.Load(); client != nil {
		err = client.Close()
	}
	return errors.Join(err, h.m.Close())
}

// connect opens the session with a machine's agent and starts what listens to
// it.
func (s *Supervisor) connect(ctx context.Context, h *hosted) error {
	opening, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		late := time.NewTimer(answerTimeout)
		defer late.Stop()
		for {
			select {
			case <-h.died:
				cancel(errors.New("its machine ended before the agent answered"))
			case <-late.C:
				if s.isFull(h) { // it cannot answer until there is space
					late.Reset(answerTimeout)
					continue
				}
				cancel(fmt.Errorf("its machine's agent did not answer within %v", answerTimeout))
			case <-stop:
			}
			return
		}
	})
	s.mu.Lock()
	var hello wire.Hello
	if len(h.replicas) > 0 {
		hello.Hostname = h.replicas[0].rec.Hostname
	}
	s.mu.Unlock()
	client, reply, err := control.Open(opening, h.m.Control(), h.m.Record().Key, hello)
	close(stop)
	wg.Wait()
	if err != nil {
		if cause := context.Cause(opening); cause != nil {
			err = cause
		}
		return h.explain(err)
	}
	s.mu.Lock()
	h.client.Store(client)
	h.rec.BootID = reply.BootID
	rec := h.rec
	for _, r := range h.replicas {
		s.notifyLocked(r)
	}
	s.mu.Unlock()
	h.loops.Go(func() { // for people: nothing waits for it
		s.warn("recording a machine", s.putMachine(h), "machine", rec.Name)
	})
	h.loops.Go(func() {
		err := client.Events(h.ctx, func(e wire.Event) error { s.event(h, e); return nil })
		if h.ctx.Err() == nil {
			s.silent(h, err)
		}
	})
	h.loops.Go(func() { s.readLogs(h) })
	return nil
}

// silent ends a machine whose agent has broken off the session and that does not
// end itself: nothing in it can be reached any more.
func (s *Supervisor) silent(h *hosted, cause error) {
	t := time.NewTimer(farewellTimeout) // a machine that is ending breaks off first
	defer t.Stop()
	select {
	case <-h.died:
	case <-h.ctx.Done():
	case <-t.C:
		s.warn("a machine's agent broke off: it is ended", cause, "machine", h.rec.Name)
		s.warn("ending a machine", h.m.Kill(h.ctx), "machine", h.rec.Name)
	}
}

func (h *hosted) hasDied() bool { return closed(h.died) }

// explain adds the kernel's last lines to the error of a machine that ended or
// never answered.
func (h *hosted) explain(err error) error {
	if tail := lastLines(h.m.ConsoleTail(), crashLines); tail != "" && (h.hasDied() || h.client.Load() == nil) {
		return fmt.Errorf("%w; its console ends with:\n%s", err, tail)
	}
	return err
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// machineEnded clears up after a machine's process has gone, and says how what
// ran in it ended.
func (s *Supervisor) machineEnded(h *hosted) {
	h.cancel()
	s.mu.Lock()
	leaving := h.leaving
	s.mu.Unlock()
	if leaving != nil {
		<-leaving
	}
	s.mu.Lock()
	replicas := slices.Clone(h.replicas)
	farewell, killed := h.farewell, h.killed
	s.mu.Unlock()
	tail := ""
	if farewell == nil && !killed {
		tail = lastLines(h.m.ConsoleTail(), crashLines)
	}
	var ended []*replica
	for _, r := range replicas {
		exit, fault := wire.ExitStatus{Code: 137, At: time.Now()}, ""
		if farewell != nil {
			if e, ok := farewell.Containers[s.snapshot(r).ID]; ok {
				exit = e
			}
			if len(farewell.Unsynced) > 0 {
				fault = "its machine could not write everything to disk: " + strings.Join(farewell.Unsynced, ", ")
			}
		} else if !killed {
			exit.Code = 255
			fault = "its machine crashed"
			if tail != "" {
				fault += "; its console ends with:\n" + tail
			}
		}
		s.unplugReplica(h, r)
		if s.exited(h, r, exit, fault) {
			ended = append(ended, r)
		}
	}
	s.leaveStorage(h)
	if err := s.opt.Fabric.Unplug(h.id); err != nil {
		s.log.Debug("unplugging a machine", "machine", h.rec.Name, "err", err)
	}
	var names []string
	for name := range h.m.Handles() {
		names = append(names, keptName(h.id, name))
	}
	s.keeperDrop(names...)
	if client := h.client.Load(); client != nil {
		client.Close()
	}
	switch {
	case h.share != nil:
		h.share.End()
	case h.rec.Shares != nil: // an earlier supervisor's
		killProcess(h.rec.Shares.PID, h.rec.Shares.StartTime, h.rec.Shares.HostBoot)
	}
	h.m.Close()
	s.warn("removing a machine", s.opt.State.DeleteMachine(h.id), "machine", h.rec.Name)
	s.mu.Lock()
	delete(s.hosts, h.id)
	for _, r := range replicas {
		if r.host == h {
			r.host = nil
			r.rec.Machine, r.rec.Notice = "", ""
		}
	}
	s.mu.Unlock()
	for _, r := range replicas {
		s.drained(r)
		s.persist(r)
	}
	close(h.ended)
	for _, r := range ended {
		s.settleExit(r)
	}
	s.resetIdle()
}

// readLogs writes what the machine's containers print until it ends.
func (s *Supervisor) readLogs(h *hosted) {
	for {
		err := control.ReadLogBatches(h.ctx, h.m.Logs(), h.m.Record().Key, s.lastLog(h), func(batch []wire.LogRecord) error {
			return s.writeLogs(h, batch)
		})
		if h.hasDied() || h.ctx.Err() != nil {
			return
		}
		select { // it may just be ending: then it has no more to say
		case <-h.died:
			return
		case <-h.ctx.Done():
			return
		case <-time.After(logRetry):
			s.warn("reading logs", err, "machine", h.rec.Name)
		}
	}
}

// lastLog is the last record of the machine that is written down.
func (s *Supervisor) lastLog(h *hosted) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := h.rec.LogSeq
	for _, r := range h.replicas {
		if r.log != nil {
			last = max(last, r.log.Last())
		}
	}
	return last
}

// writeLogs writes a batch: each replica's part at once, in the order of the
// numbers, so that the highest one found in the files is the last.
func (s *Supervisor) writeLogs(h *hosted, batch []wire.LogRecord) error {
	for len(batch) > 0 {
		id, n := batch[0].Container, 1
		for n < len(batch) && batch[n].Container == id {
			n++
		}
		s.mu.Lock()
		var w output
		for _, r := range h.replicas {
			if r.rec.ID == id {
				w = r.log
			}
		}
		s.mu.Unlock()
		if w != nil {
			records := make([]*wire.LogRecord, n)
			for i := range n {
				records[i] = &batch[i]
			}
			if err := w.Append(records...); err != nil {
				return err
			}
		}
		batch = batch[n:]
	}
	return nil
}

// notices follows what the hypervisor says. A machine that the host's full disk
// has paused is resumed when there is space again.
func (s *Supervisor) notices(h *hosted) {
	var space <-chan time.Time
	for {
		select {
		case n, ok := <-h.m.Notices():
			if !ok {
				return
			}
			switch n.Kind {
			case machine.NoticeDiskFull:
				s.setFull(h, true)
				if n.Serial != "" || !s.hasNotice(h) { // an adopted one's disk was said to its last owner
					s.setNotice(h, "paused: no space left on the host for "+s.diskName(h, n.Serial))
				}
				s.log.Warn("a machine is paused: the host's disk is full", "machine", h.rec.Name, "disk", n.Serial)
				select {
				case h.held <- struct{}{}:
				default:
				}
				space = time.After(spaceInterval)
			case machine.NoticeDiskError:
				s.setNotice(h, "I/O error on the host's disk: "+n.Text)
			case machine.NoticeResumed:
				s.setFull(h, false)
				s.setNotice(h, "")
			}
		case <-space:
			space = nil
			if free, _, err := s.leastFree(s.diskDirs(h)); err == nil && free < resumeBytes {
				space = time.After(spaceInterval)
				continue
			}
			if err := h.m.Resume(h.ctx); err != nil { // its notice says what follows
				s.warn("resuming a machine", err, "machine", h.rec.Name)
			}
		case <-h.ctx.Done():
			return
		}
	}
}

func (s *Supervisor) setFull(h *hosted, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.full = full
}

func (s *Supervisor) isFull(h *hosted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.full
}

// diskDirs are where the disks lie that a machine writes.
func (s *Supervisor) diskDirs(h *hosted) []string {
	s.mu.Lock()
	replicas := slices.Clone(h.replicas)
	var volumes []string
	for _, st := range s.storages {
		if st.host == h {
			volumes = sortedKeys(st.rec.Volumes)
		}
	}
	s.mu.Unlock()
	var dirs []string
	for _, name := range volumes {
		if v, err := s.opt.Volumes.Get(name); err == nil {
			dirs = append(dirs, filepath.Dir(v.Disk))
		}
	}
	for _, r := range replicas {
		rec := s.snapshot(r)
		dirs = append(dirs, s.opt.State.ReplicaDir(rec.ID))
		for _, m := range rec.MachineMounts() {
			if m.Type != spec.MountVolume {
				continue
			}
			if v, err := s.opt.Volumes.Get(m.Volume); err == nil {
				dirs = append(dirs, filepath.Dir(v.Disk))
			}
		}
	}
	return dirs
}

// leastFree is the space left in that of dirs which has the least.
func (s *Supervisor) leastFree(dirs []string) (free int64, at string, err error) {
	free = math.MaxInt64
	for _, dir := range dirs {
		n, where, err := s.opt.Free(dir)
		if err != nil {
			return 0, where, err
		}
		if n < free {
			free, at = n, where
		}
	}
	return free, at, nil
}

// resumeBytes is how much space makes it worth while to let a paused machine
// run on.
const resumeBytes = 64 << 20

// FreeBytes is the space left for this user in dir, or where dir will be made,
// and that directory.
func FreeBytes(dir string) (free int64, at string, err error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		switch {
		case err == nil:
			return int64(st.Bavail) * int64(st.Bsize), dir, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir):
			dir = filepath.Dir(dir)
		default:
			return 0, dir, fmt.Errorf("looking at the space in %s: %w", dir, err)
		}
	}
}

// concernedLocked are the replicas that a machine's trouble is the trouble of: those
// in it, and of a storage machine those that mount from it.
func (s *Supervisor) concernedLocked(h *hosted) []*replica {
	concerned := slices.Clone(h.replicas)
	for _, o := range s.hosts {
		if h.rec.Serves != "" && o.rec.Storage != nil && o.rec.Storage.ID == h.rec.Serves {
			concerned = append(concerned, o.replicas...)
		}
	}
	return concerned
}

func (s *Supervisor) setNotice(h *hosted, text string) {
	s.mu.Lock()
	replicas := s.concernedLocked(h)
	s.mu.Unlock()
	for _, r := range replicas {
		s.update(r, func(rec *state.Replica) { rec.Notice = text })
	}
}

func (s *Supervisor) hasNotice(h *hosted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	concerned := s.concernedLocked(h)
	return len(concerned) > 0 && concerned[0].rec.Notice != ""
}

// diskName says what a serial stands for.
func (s *Supervisor) diskName(h *hosted, serial string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.concernedLocked(h) {
		if serial == scratchSerial(r.rec.ID) {
			return "the files of " + r.rec.Name
		}
		for _, m := range r.rec.MachineMounts() {
			if m.Type == spec.MountVolume && serial == volumeSerial(m.Volume) {
				return "volume " + m.Volume
			}
		}
	}
	return "one of its disks"
}

// adoptAll goes on with the machines of an earlier supervisor, and clears up
// those that ended, or that it cannot reach any more.
func (s *Supervisor) adoptAll(records []*state.Machine) {
	known := map[int]bool{}
	for _, rec := range records {
		known[rec.Record.PID] = true
		if rec.Shares != nil {
			known[rec.Shares.PID] = true
		}
	}
	killOrphans(filepath.Join(s.opt.State.Dir(), "machines"), known, s.log)
	type adoption struct {
		h       *hosted
		rec     *state.Machine
		handles machine.Handles
	}
	var adoptions []adoption
	for _, rec := range records {
		h := s.newHosted(*rec)
		for _, id := range rec.Replicas {
			if r := s.replicas[id]; r != nil {
				h.replicas = append(h.replicas, r)
			}
		}
		a := adoption{h, rec, s.takeHandles(rec.ID)}
		adoptions = append(adoptions, a)
		if !adoptable(a.h, rec, a.handles) {
			continue
		}
		// All names and addresses are there before the first trunk is plugged: a
		// machine must not learn that one adopted after it does not exist.
		s.warn("attaching a machine to its storage network", s.attachStorage(h), "machine", rec.Name)
		s.knowStorage(h)
		for _, r := range h.replicas {
			if rec := s.snapshot(r); isUp(rec.Status) {
				_ = s.attachReplica(h, rec) // tried, and told, again as the machine is adopted
			}
		}
	}
	var wg sync.WaitGroup // machines answer in their own time
	for _, a := range adoptions {
		h, rec, handles := a.h, a.rec, a.handles
		wg.Go(func() {
			var kept []string
			for name := range handles {
				kept = append(kept, keptName(rec.ID, name))
			}
			if err := s.adopt(h, rec, handles); err != nil {
				s.log.Warn("a machine is lost", "machine", rec.Name, "err", err)
				s.bury(h, rec)
				s.keeperDrop(kept...)
			}
		})
	}
	wg.Wait()
	s.afterAdoption()
}

// takeHandles takes back the host's ends of a machine's streams.
func (s *Supervisor) takeHandles(id string) machine.Handles {
	s.heldMu.Lock()
	defer s.heldMu.Unlock()
	handles := machine.Handles{}
	prefix := keptName(id, "")
	for name, f := range s.opt.Held {
		if handle, ok := strings.CutPrefix(name, prefix); ok {
			handles[handle] = f
			delete(s.opt.Held, name)
		}
	}
	return handles
}

func adoptable(h *hosted, rec *state.Machine, handles machine.Handles) bool {
	return rec.Phase == state.Made && len(handles) > 0 && (len(h.replicas) > 0 || rec.Serves != "")
}

func (s *Supervisor) adopt(h *hosted, rec *state.Machine, handles machine.Handles) error {
	closeAll := func() {
		for _, f := range handles {
			f.Close()
		}
	}
	if !adoptable(h, rec, handles) {
		closeAll()
		return errors.New("its streams were not kept")
	}
	m, err := s.opt.Driver.Adopt(h.ctx, rec.Record, handles)
	if err != nil {
		closeAll()
		return err
	}
	s.begin(h, m)
	defer h.settle()
	if err := s.opt.Fabric.Plug(h.id, m.Handles()[machine.HandleTrunk]); err != nil {
		return err
	}
	for _, r := range h.replicas {
		if isUp(s.snapshot(r).Status) {
			if err := s.plugReplica(h, r); err != nil {
				return err
			}
		}
	}
	answered := make(chan error, 1)
	h.loops.Go(func() {
		err := s.connect(h.ctx, h)
		for _, r := range h.replicas {
			if rec := s.snapshot(r); err == nil {
				s.relaySockets(h, rec.ID, rec.Mounts)
			}
		}
		answered <- err
		switch {
		case err == nil && !s.isFull(h):
			s.setNotice(h, "") // an earlier supervisor's
		case err != nil && s.isFull(h):
			s.warn("a machine's agent did not answer: it is ended", err, "machine", rec.Name)
			s.warn("ending a machine", h.m.Kill(h.ctx), "machine", rec.Name)
		}
	})
	select {
	case err := <-answered:
		return err
	case <-h.held:
		return nil // it answers when the host's disk has space again
	}
}

// bury ends what is left of a machine that cannot be adopted.
func (s *Supervisor) bury(h *hosted, rec *state.Machine) {
	if h.m != nil {
		s.kill(h)
		return
	}
	h.cancel()
	for _, r := range h.replicas {
		s.unplugReplica(h, r)
	}
	s.leaveStorage(h)
	killProcess(rec.Record.PID, rec.Record.StartTime, rec.Record.HostBoot)
	if rec.Shares != nil {
		killProcess(rec.Shares.PID, rec.Shares.StartTime, rec.Shares.HostBoot)
	}
	s.warn("removing a machine", s.opt.State.DeleteMachine(rec.ID), "machine", rec.Name)
}

// killProcess ends a process, if it is still the one that was recorded, and
// waits for its end.
func killProcess(pid int, startTime uint64, hostBoot string) {
	if !state.ProcessAlive(pid, startTime, hostBoot) {
		return
	}
	waitEnd(pid, func() bool { return state.ProcessAlive(pid, startTime, hostBoot) }, func() { _ = unix.Kill(pid, syscall.SIGKILL) })
}
