package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/share"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
)

// Keeper holds files beyond the supervisor's life; see runtime/keeper.
type Keeper interface {
	Put(files map[string]*os.File) error
	Drop(names ...string) error
}

// Images is the store of images; see runtime/image.
type Images interface {
	List() ([]*image.Image, error)
	Get(ref, platform string) (*image.Image, error)
	Pull(ctx context.Context, ref string, opt image.PullOptions) (*image.Image, error)
	Disk(img *image.Image) (image.Disk, error)
	Remove(ref string, opt image.RemoveOptions) (image.Removed, error)
	// Resolve asks the registry which digest a name leads to.
	Resolve(ctx context.Context, ref string, opt image.PullOptions) (string, error)
}

// Volumes is the store of volumes; see runtime/volume.
type Volumes interface {
	List() ([]*volume.Volume, error)
	Get(name string) (*volume.Volume, error)
	Create(v volume.Volume) (*volume.Volume, error)
	Lock(name, holder string) (*os.File, error)
	Remove(name string) error
}

// Scratch makes the writable disk of a container; see volume.Template.
type Scratch interface {
	Clone(path string, bytes int64) error
}

// Shares serves host folders and files to machines; see HostShares.
type Shares interface {
	// Serve starts the process that serves one machine, which ends with it.
	Serve(shares []share.Share, key wire.Key) (ShareServer, error)
}

// ShareServer is the process that serves one machine's folders.
type ShareServer interface {
	Record() state.ShareServer
	Port() *os.File // the machine's end, which the caller closes
	End()           // ends the process, should the machine's end not have
}

// Fabric is the networks; see package network.
type Fabric interface {
	Create(c network.Config) error
	Remove(id string) error
	Plug(machine string, trunk *os.File) error
	Unplug(machine string) error
	Attach(machine string, e network.Endpoint) error
	Detach(machine, network, container string) error
	Publish(p network.Publish) error
	Unpublish(id string) error
	Close() error
}

// Guest is what machines boot.
type Guest struct {
	Kernel, Initramfs, Digest string
}

// Options are what a Supervisor works with.
type Options struct {
	State   *state.Store
	Driver  machine.Driver
	Images  Images
	Volumes Volumes
	Scratch Scratch
	Shares  Shares
	Fabric  Fabric
	Keeper  Keeper
	Held    map[string]*os.File // what the keeper held: taken over
	Log     *slog.Logger

	// Guest finds what machines boot, when the first is made.
	Guest func() (Guest, error)
	// Release turns what a command line sent for pulls into what they take.
	Release func(api.Registry) (authn.Keychain, func(*http.Request) (*url.URL, error))

	// HostCAs are the authorities that the host trusts, as PEM.
	HostCAs func() ([]byte, error)

	// Emulated says why machines run by emulation, "" if they do not; nil: never.
	Emulated func(context.Context) string

	// StoreDir is where volumes and images are: up warns when it has little space.
	StoreDir string
	// Free is the space left in a directory; nil: FreeBytes.
	Free func(dir string) (free int64, at string, err error)

	// Rotation is that of a log whose service asks for none; zero: logs.Default.
	Rotation logs.Rotation
	// RemovedLogs is how much the logs of removed replicas may take, in bytes.
	RemovedLogs int64

	MemoryMiB int // of a machine whose service sets no limit; 0: from the host's
	MTU       int // of trunks and networks; 0: network.DefaultMTU

	// Idle is how long a supervisor without machines or requests goes on.
	Idle time.Duration
	// Handover is called by an upgrade, once plans have ended: it makes the keeper
	// become that executable. nil refuses upgrades.
	Handover func(executable string) error
	Build    api.Build
}

// Supervisor is the state of everything that runs.
type Supervisor struct {
	opt     Options
	log     *slog.Logger
	started time.Time

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine

	events bus // what happens to objects, for whoever watches
	turns  turns

	forwards forwards

	heldMu sync.Mutex // guards opt.Held; taken last
	keptMu sync.Mutex // one pruning of removed replicas' logs at a time; taken last
	netMu  sync.Mutex // one change of networks or leases at a time; taken before mu

	// Held for reading while a replica gets its image, and alone while an image is
	// removed; taken before mu.
	images sync.RWMutex

	mu       sync.Mutex // guards what follows
	closing  bool
	replicas map[string]*replica
	hosts    map[string]*hosted
	groups   map[string]opLock // of replicas that share a machine
	networks map[string]*virtual
	storages map[string]*storage // by project
	changed  chan struct{}       // closed at the next change of any replica
	requests int
	sessions int // attached streams
	idle     *time.Timer
	done     chan struct{} // closed when idle for long enough, or handed over
	ending   bool
	handed   bool
}

// New reads the state, adopts what runs, and clears up what was half done. On
// error nothing is left running that was not.
func New(opt Options) (*Supervisor, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.MTU == 0 {
		opt.MTU = network.DefaultMTU
	}
	if opt.Idle == 0 {
		opt.Idle = 5 * time.Second
	}
	if opt.Rotation == (logs.Rotation{}) {
		opt.Rotation = logs.Default
	}
	if opt.Free == nil {
		opt.Free = FreeBytes
	}
	if opt.Held == nil {
		opt.Held = map[string]*os.File{}
	}
	s := &Supervisor{
		opt: opt, log: opt.Log, started: time.Now(),
		replicas: map[string]*replica{}, hosts: map[string]*hosted{}, groups: map[string]opLock{}, networks: map[string]*virtual{}, storages: map[string]*storage{},
		changed: make(chan struct{}), done: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.turns.init()
	s.forwards.init()
	if err := s.load(); err != nil {
		s.Close()
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	return s, nil
}

// load brings back what the state says.
func (s *Supervisor) load() error {
	if err := s.opt.State.Sweep(); err != nil {
		return err
	}
	networks, err := s.opt.State.Networks()
	if err != nil {
		return err
	}
	replicas, err := s.opt.State.Replicas()
	if err != nil {
		return err
	}
	storages, err := s.opt.State.Storages()
	if err != nil {
		return err
	}
	machines, err := s.opt.State.Machines()
	if err != nil {
		return err
	}
	for _, n := range networks {
		if err := s.loadNetwork(n); err != nil {
			return err
		}
	}
	for _, st := range storages {
		if err := s.loadStorage(st); err != nil {
			return err
		}
	}
	s.loadReplicas(replicas)
	if err := s.loadForwards(); err != nil {
		return err
	}
	s.adoptAll(machines)
	s.settleStorages()
	s.dropUnused()
	s.resetIdle()
	return nil
}

// Close lets go of everything without ending it, and waits for every goroutine.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	s.closing = true
	if s.idle != nil {
		s.idle.Stop()
	}
	hosts := make([]*hosted, 0, len(s.hosts))
	for _, h := range s.hosts {
		hosts = append(hosts, h)
	}
	s.mu.Unlock()
	s.cancel()
	s.events.close()
	s.wg.Wait()
	var err error
	for _, h := range hosts {
		err = errors.Join(err, h.letGo())
	}
	err = errors.Join(err, s.opt.Fabric.Close(), s.letGoForwards())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.log != nil {
			err = errors.Join(err, r.log.Close())
		}
	}
	for _, f := range s.opt.Held {
		f.Close()
	}
	return err
}

// Done is closed when there is nothing left to supervise, or another build is
// to take over.
func (s *Supervisor) Done() <-chan struct{} { return s.done }

// HandedOver tells, after Done, which of the two it was.
func (s *Supervisor) HandedOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handed
}

// spawn starts a goroutine of the supervisor's; it reports false when that is
// closing.
func (s *Supervisor) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Go(f)
	return true
}

var errClosing = errors.New("the supervisor is ending: run the command again")

// hold makes Close wait until release is called; it reports false when the
// supervisor is closing.
func (s *Supervisor) hold() (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, false
	}
	s.wg.Add(1)
	return s.wg.Done, true
}

// enter notes a request, so that the supervisor does not end under it; it
// reports false when that has been decided.
func (s *Supervisor) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending || s.closing {
		return false
	}
	s.requests++
	s.wg.Add(1) // Close waits for it
	if s.idle != nil {
		s.idle.Stop()
	}
	return true
}

func (s *Supervisor) leave() {
	s.mu.Lock()
	s.requests--
	s.mu.Unlock()
	s.wg.Done()
	s.resetIdle()
}

// resetIdle starts the countdown to the end when nothing is left to do.
func (s *Supervisor) resetIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		s.idle.Stop()
	}
	if !s.unusedLocked() {
		return
	}
	s.idle = time.AfterFunc(s.opt.Idle, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.unusedLocked() && !s.ending {
			s.ending = true
			close(s.done)
		}
	})
}

func (s *Supervisor) unusedLocked() bool {
	if s.closing || s.requests > 0 || len(s.hosts) > 0 {
		return false
	}
	for _, r := range s.replicas {
		if r.rec.Status == planner.StatusRestarting || isUp(r.rec.Status) {
			return false
		}
	}
	return true
}

// dropUnused makes the keeper close what nobody took back.
func (s *Supervisor) dropUnused() {
	s.heldMu.Lock()
	defer s.heldMu.Unlock()
	var names []string
	for name, f := range s.opt.Held {
		names = append(names, name)
		f.Close()
	}
	s.opt.Held = map[string]*os.File{}
	if len(names) > 0 {
		slices.Sort(names)
		s.log.Info("files of what no longer runs are closed", "names", names)
		s.keeperDrop(names...)
	}
}

// take returns a file the keeper held.
func (s *Supervisor) take(name string) *os.File {
	s.heldMu.Lock()
	defer s.heldMu.Unlock()
	f := s.opt.Held[name]
	delete(s.opt.Held, name)
	return f
}

func (s *Supervisor) keeperDrop(names ...string) {
	if len(names) == 0 {
		return
	}
	if err := s.opt.Keeper.Drop(names...); err != nil {
		s.log.Warn("closing kept files", "err", err)
	}
}

// warn logs an error of something that goes on all the same.
func (s *Supervisor) warn(what string, err error, args ...any) {
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, io.EOF) {
		s.log.Warn(what, append(args, "err", err)...)
	}
}

func addrPrefix(a netip.Addr, subnets []ipam.Subnet) netip.Prefix {
	for _, sub := range subnets {
		if sub.Prefix.Contains(a) {
			return netip.PrefixFrom(a, sub.Prefix.Bits())
		}
	}
	return netip.PrefixFrom(a, a.BitLen())
}
