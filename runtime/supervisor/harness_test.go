package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/machine/fake"
	"github.com/stackvm/stack/runtime/share"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
	"github.com/stackvm/stack/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test.
const patience = 30 * time.Second

// world is what outlives a supervisor: the host with its machines, the disk, the
// keeper.
type world struct {
	t       *testing.T
	dir     string
	driver  *fake.Driver
	images  *fakeImages
	volumes *fakeVolumes
	keeper  *fakeKeeper
	fabric  *fakeFabric
	s       *Supervisor
	idle    time.Duration
	free    atomic.Int64 // bytes on the host's disk
}

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	w := &world{
		t: t, dir: dir, driver: fake.New(), keeper: &fakeKeeper{held: map[string]*os.File{}},
		images:  &fakeImages{dir: dir, images: map[string]*image.Image{}},
		volumes: &fakeVolumes{dir: filepath.Join(dir, "volumes"), volumes: map[string]*volume.Volume{}},
		idle:    time.Hour,
	}
	w.free.Store(100 << 30)
	w.images.add("app:1", image.Config{Cmd: []string{"server"}})
	w.open()
	t.Cleanup(func() {
		w.close()
		w.driver.Close()
		w.keeper.close()
	})
	return w
}

// open starts a supervisor on what is there.
func (w *world) open() {
	w.t.Helper()
	w.fabric = newFakeFabric()
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	s, err := New(Options{
		State: state.Open(filepath.Join(w.dir, "state")), Driver: w.driver, Images: w.images, Volumes: w.volumes,
		Scratch: fakeScratch{}, Shares: fakeShares{}, Fabric: w.fabric, Keeper: w.keeper, Held: w.keeper.list(),
		Log:     slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: level})),
		Guest:   func() (Guest, error) { return Guest{Kernel: "k", Initramfs: "i", Digest: "d"}, nil },
		HostCAs: func() ([]byte, error) { return []byte("authorities"), nil },
		Free:    func(dir string) (int64, string, error) { return w.free.Load(), dir, nil },
		Idle:    w.idle,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = s
}

func (w *world) close() {
	if w.s != nil {
		if err := w.s.Close(); err != nil {
			w.t.Error(err)
		}
		w.s = nil
	}
}

// restart is what a crash and the keeper do to a supervisor.
func (w *world) restart() {
	w.t.Helper()
	w.close()
	w.open()
}

// apply carries a command out and returns its events.
func (w *world) apply(a api.Apply) ([]api.Event, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.applyContext(ctx, a)
}

func (w *world) applyContext(ctx context.Context, a api.Apply) ([]api.Event, error) {
	if a.Project != nil {
		declare(a.Project)
	}
	var mu sync.Mutex
	var events []api.Event
	w.s.Apply(ctx, a, 1, func(e api.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	})
	last := events[len(events)-1]
	if last.Kind != api.EventDone {
		w.t.Errorf("the last event is %s", last.Kind)
	}
	if last.Error != nil {
		return events, last.Error
	}
	return events, nil
}

func (w *world) up(p *spec.Project) []api.Event {
	w.t.Helper()
	events, err := w.apply(api.Apply{Command: api.Up, Name: p.Name, Project: p, Options: planner.Options{Wait: true}, Confirm: api.ConfirmAll})
	if err != nil {
		w.t.Fatalf("up: %v", err)
	}
	return events
}

func warnings(events []api.Event) []string {
	var out []string
	for _, e := range events {
		if e.Kind == api.EventWarning {
			out = append(out, e.Text)
		}
	}
	return out
}

func (w *world) down(p *spec.Project, volumes bool) {
	w.t.Helper()
	if _, err := w.apply(api.Apply{Command: api.Down, Name: p.Name, Project: p, Down: planner.DownOptions{Volumes: volumes, RemoveOrphans: true}, Confirm: api.ConfirmAll}); err != nil {
		w.t.Fatalf("down: %v", err)
	}
}

func (w *world) rec(name string) *state.Replica {
	w.t.Helper()
	r, err := w.s.find(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.s.snapshot(r)
}

// until waits for a replica's record to be as ok says.
func (w *world) until(name string, ok func(*state.Replica) bool) *state.Replica {
	w.t.Helper()
	r, err := w.s.find(name)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.s.await(ctx, r, func() (bool, error) { return ok(&r.rec), nil }); err != nil {
		w.t.Fatalf("%s: %v: it is %+v", name, err, w.s.snapshot(r))
	}
	return w.s.snapshot(r)
}

func (w *world) guest(name string) *fake.Guest {
	w.t.Helper()
	g := w.driver.Guest(name)
	if g == nil {
		w.t.Fatalf("no machine %s runs", name)
	}
	return g
}

// nothingLeft checks that a project left no trace.
func (w *world) nothingLeft() {
	w.t.Helper()
	if g := w.driver.Guests(); len(g) != 0 {
		w.t.Errorf("%d machines run", len(g))
	}
	if names := w.keeper.names(); len(names) != 0 {
		w.t.Errorf("the keeper holds %v", names)
	}
	for _, kind := range []string{"replicas", "machines", "networks", "storage"} {
		entries, err := os.ReadDir(filepath.Join(w.dir, "state", kind))
		if err == nil && len(entries) != 0 {
			w.t.Errorf("%d %s are recorded", len(entries), kind)
		}
	}
	if left := w.fabric.left(); left != "" {
		w.t.Errorf("the fabric has %s", left)
	}
}

// project makes a project of services on one network.
func project(name string, services ...*spec.Service) *spec.Project {
	p := &spec.Project{
		Name: name, NameFrom: spec.NameFromFlag, WorkingDir: "/", Services: map[string]*spec.Service{},
		Networks: map[string]*spec.Network{"default": {Key: "default", Name: name + "_default", IPv4: true, Hash: "n"}},
		Volumes:  map[string]*spec.Volume{},
	}
	for _, s := range services {
		p.Services[s.Name] = s
	}
	return p
}

// declare adds the volumes that services name.
func declare(p *spec.Project) {
	for _, s := range p.Services {
		for _, m := range s.MachineMounts() {
			if m.Type == spec.MountVolume && m.Source != "" && p.Volumes[m.Source] == nil {
				p.Volumes[m.Source] = &spec.Volume{Key: m.Source, Name: p.Name + "_" + m.Source, Hash: "v"}
			}
		}
	}
}

func service(name string, command ...string) *spec.Service {
	return &spec.Service{
		Name: name, Image: "app:1", Command: command, Scale: 1, Hash: strings.Join(command, " "), Attach: true,
		Restart:  spec.Restart{Policy: "no"},
		Networks: map[string]spec.Attachment{"default": {}},
	}
}

func dependsOn(s *spec.Service, on, condition string) *spec.Service {
	if s.DependsOn == nil {
		s.DependsOn = map[string]spec.Dependency{}
	}
	s.DependsOn[on] = spec.Dependency{Condition: condition, Required: true}
	return s
}

// fakeKeeper keeps duplicates, as the keeper does.
type fakeKeeper struct {
	mu   sync.Mutex
	held map[string]*os.File
}

func (k *fakeKeeper) Put(files map[string]*os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, f := range files {
		d, err := dup(f)
		if err != nil {
			return err
		}
		if old := k.held[name]; old != nil {
			old.Close()
		}
		k.held[name] = d
	}
	return nil
}

func dup(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), dupErr
}

func (k *fakeKeeper) Drop(names ...string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		if f := k.held[name]; f != nil {
			f.Close()
			delete(k.held, name)
		}
	}
	return nil
}

func (k *fakeKeeper) list() map[string]*os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]*os.File{}
	for name, f := range k.held {
		if d, err := dup(f); err == nil {
			out[name] = d
		}
	}
	return out
}

func (k *fakeKeeper) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.held))
}

// close loses everything, as when the keeper dies as well.
func (k *fakeKeeper) close() { _ = k.Drop(k.names()...) }

// fakeImages is a store of images whose disks are one empty file.
type fakeImages struct {
	dir    string
	mu     sync.Mutex
	images map[string]*image.Image
	remote map[string]*image.Image
}

func (f *fakeImages) make(ref string, c image.Config) *image.Image {
	id := digest(ref) + strings.Repeat("0", 48)
	return &image.Image{ID: id, Digest: "sha256:" + id, Config: c, Pulled: time.Unix(1, 0)}
}

func (f *fakeImages) add(ref string, c image.Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images[ref] = f.make(ref, c)
}

func (f *fakeImages) Get(ref, _ string) (*image.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if img := f.images[ref]; img != nil {
		return img, nil
	}
	for _, img := range f.images {
		if img.ID == ref {
			return img, nil
		}
	}
	return nil, fmt.Errorf("image %s: %w", ref, image.ErrNotFound)
}

func (f *fakeImages) Pull(_ context.Context, ref string, opt image.PullOptions) (*image.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	img := f.remote[ref]
	if img == nil {
		return nil, fmt.Errorf("pulling %q: manifest unknown", ref)
	}
	if opt.Progress != nil {
		opt.Progress(image.Progress{Ref: ref, Layer: "sha256:abc", Phase: image.Done, Current: 1, Total: 1})
	}
	f.images[ref] = img
	return img, nil
}

func (f *fakeImages) Remove(ref string, opt image.RemoveOptions) (image.Removed, error) {
	img, err := f.Get(ref, "")
	if err != nil {
		return image.Removed{}, err
	}
	if len(opt.Uses(img)) > 0 && !opt.Force {
		return image.Removed{}, fmt.Errorf("removing image %q: %w: in use", ref, image.ErrInUse)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.images, ref)
	return image.Removed{Untagged: []string{ref}, Deleted: []string{img.ID}}, nil
}

func (f *fakeImages) List() ([]*image.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.images)), nil
}

func (f *fakeImages) Resolve(_ context.Context, ref string, _ image.PullOptions) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if img := f.remote[ref]; img != nil {
		return img.Digest, nil
	}
	return "", fmt.Errorf("%q: manifest unknown", ref)
}

func (f *fakeImages) Disk(img *image.Image) (image.Disk, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := filepath.Join(f.dir, "image-"+img.ID[:12])
	if _, err := os.Stat(path); err == nil {
		return image.Disk{Extents: []image.Extent{{Path: path, Bytes: 4096}}}, nil
	}
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		return image.Disk{}, err
	}
	return image.Disk{Extents: []image.Extent{{Path: path, Bytes: 4096}}}, nil
}

// fakeVolumes keeps volumes as empty files, with real locks.
type fakeVolumes struct {
	dir     string
	mu      sync.Mutex
	volumes map[string]*volume.Volume
}

func (f *fakeVolumes) List() ([]*volume.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.volumes)), nil
}

func (f *fakeVolumes) Get(name string) (*volume.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.volumes[name]; v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("%w: %s", volume.ErrNotFound, name)
}

func (f *fakeVolumes) Create(v volume.Volume) (*volume.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.volumes[v.Name] != nil {
		return nil, volume.ErrExists
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, err
	}
	v.Disk, v.Bytes = filepath.Join(f.dir, v.Name), 4096
	f.volumes[v.Name] = &v
	return &v, os.WriteFile(v.Disk, make([]byte, 4096), 0o600)
}

func (f *fakeVolumes) Lock(name, _ string) (*os.File, error) {
	v, err := f.Get(name)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(v.Disk, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, &volume.BusyError{Volume: name}
	}
	return file, nil
}

func (f *fakeVolumes) Remove(name string) error {
	lock, err := f.Lock(name, "")
	if err != nil {
		return err
	}
	lock.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.volumes, name)
	return nil
}

type fakeScratch struct{}

func (fakeScratch) Clone(path string, bytes int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(bytes), f.Close())
}

type fakeShares struct{}

type fakeShareServer struct{ port *os.File }

func (fakeShares) Serve([]share.Share, wire.Key) (ShareServer, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(pair[0])
	unix.Close(pair[1]) // nobody is at the other end
	return fakeShareServer{os.NewFile(uintptr(pair[0]), "shares")}, nil
}

func (fakeShareServer) Record() state.ShareServer { return state.ShareServer{} }
func (s fakeShareServer) Port() *os.File          { return s.port }
func (fakeShareServer) End()                      {}

// fakeFabric keeps what it is told, and refuses what the real one would.
type fakeFabric struct {
	mu        sync.Mutex
	networks  map[string]network.Config
	machines  map[string]bool
	endpoints map[string]network.Endpoint // machine/network/container
	published map[string]network.Publish
}

func newFakeFabric() *fakeFabric {
	return &fakeFabric{networks: map[string]network.Config{}, machines: map[string]bool{}, endpoints: map[string]network.Endpoint{}, published: map[string]network.Publish{}}
}

func (f *fakeFabric) Create(c network.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.networks[c.ID]; ok {
		return errors.New("it exists")
	}
	f.networks[c.ID] = c
	return nil
}

func (f *fakeFabric) Remove(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.endpoints {
		if strings.Contains(key, "/"+id+"/") {
			return fmt.Errorf("network %s has endpoint %s", id, key)
		}
	}
	delete(f.networks, id)
	return nil
}

func (f *fakeFabric) Plug(machine string, trunk *os.File) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if trunk == nil {
		return errors.New("no trunk")
	}
	f.machines[machine] = true
	return nil
}

func (f *fakeFabric) Unplug(machine string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.machines, machine)
	return nil
}

func (f *fakeFabric) Attach(machine string, e network.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.networks[e.Network]; !ok {
		return errors.New("no such network")
	}
	for key, o := range f.endpoints {
		if o.Container != e.Container && o.Network == e.Network && slices.ContainsFunc(o.Addrs, func(a netip.Addr) bool { return slices.Contains(e.Addrs, a) }) {
			return fmt.Errorf("address %v is taken by %s", e.Addrs, key)
		}
	}
	f.endpoints[machine+"/"+e.Network+"/"+e.Container] = e
	return nil
}

func (f *fakeFabric) Detach(machine, network, container string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := machine + "/" + network + "/" + container
	if _, ok := f.endpoints[key]; !ok {
		return errors.New("it is not attached")
	}
	delete(f.endpoints, key)
	return nil
}

func (f *fakeFabric) Publish(p network.Publish) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.published[p.ID]; ok {
		return errors.New("it is published")
	}
	f.published[p.ID] = p
	return nil
}

func (f *fakeFabric) Unpublish(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.published[id]
	if !ok {
		return errors.New("it is not published")
	}
	delete(f.published, id)
	if p.Listener != nil {
		return p.Listener.Close()
	}
	return p.Packet.Close()
}

func (f *fakeFabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.published {
		if p.Listener != nil {
			p.Listener.Close()
		} else {
			p.Packet.Close()
		}
	}
	return nil
}

func (f *fakeFabric) left() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.networks) + len(f.machines) + len(f.endpoints) + len(f.published); n > 0 {
		return fmt.Sprintf("networks %v, machines %v, endpoints %v, published %v", len(f.networks), len(f.machines), len(f.endpoints), len(f.published))
	}
	return ""
}

// resolve returns the containers a name leads to on any network.
func (f *fakeFabric) resolve(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, e := range f.endpoints {
		if slices.Contains(e.Names, name) {
			found = append(found, e.Container)
		}
	}
	slices.Sort(found)
	return found
}
