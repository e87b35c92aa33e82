package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/network/ipam"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/control"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
)

// Labels by which compose knows its volumes and networks: one that has them belongs
// to the project, whoever made it.
const (
	labelProject = "com.docker.compose.project"
	labelVolume  = "com.docker.compose.volume"
	labelNetwork = "com.docker.compose.network"
)

func (s *Supervisor) makeVolume(v volume.Volume) error {
	v.Created = time.Now()
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	if v.Project != "" && !v.Anonymous { // an engine's anonymous volumes are nobody's
		maps.Copy(v.Labels, map[string]string{labelProject: v.Project, label + "config-hash": v.Hash, label + "version": ComposeVersion})
	}
	if v.Key != "" {
		v.Labels[labelVolume] = v.Key
	}
	if v.Anonymous {
		v.Labels["com.docker.volume.anonymous"] = ""
	}
	if _, err := s.opt.Volumes.Create(v); err != nil && !errors.Is(err, volume.ErrExists) {
		return err
	}
	s.emit(objectEvent("volume", "create", v.Name, v.Name, v.Project, "", nil))
	return nil
}

// createVolume makes a volume that no compose file asked for. One that is there
// is as good, if it is as large.
func (s *Supervisor) createVolume(_ context.Context, c api.VolumeCreate) (api.VolumeRef, error) {
	v := volume.Volume{
		Name: c.Name, Labels: c.Labels, Options: c.Options, Bytes: c.Bytes,
		Project: c.Labels[labelProject], Key: c.Labels[labelVolume],
	}
	if v.Name == "" {
		v.Name, v.Anonymous = state.NewID(), true
	}
	have, err := s.opt.Volumes.Get(v.Name)
	switch {
	case err == nil && v.Bytes != 0 && have.Bytes != v.Bytes:
		return api.VolumeRef{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("volume %s exists with another size", v.Name)}
	case err == nil:
		return api.VolumeRef{Name: v.Name}, nil
	case !errors.Is(err, volume.ErrNotFound):
		return api.VolumeRef{}, err
	}
	return api.VolumeRef{Name: v.Name}, s.makeVolume(v)
}

// deleteVolume removes a volume at a user's wish, once no change of its project
// is under way.
func (s *Supervisor) deleteVolume(ctx context.Context, ref api.VolumeRef) (nothing, error) {
	v, err := s.findVolume(ref.Name)
	if err != nil {
		return nothing{}, err
	}
	release, err := s.volumeTurn(ctx, v, "volume rm")
	if err != nil {
		return nothing{}, err
	}
	defer release()
	return nothing{}, s.removeVolume(v.Name)
}

func (s *Supervisor) findVolume(name string) (*volume.Volume, error) {
	v, err := s.opt.Volumes.Get(name)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, &api.Error{Code: api.CodeNotFound, Message: "no such volume: " + name}
	}
	return v, err
}

// volumeTurn waits until no change of a volume's project is under way, and keeps
// it so.
func (s *Supervisor) volumeTurn(ctx context.Context, v *volume.Volume, what string) (release func(), err error) {
	if v.Project == "" {
		return func() {}, nil
	}
	return s.turns.take(ctx, v.Project, what, func(string) {})
}

// removeVolume removes a volume that no replica has, stopped ones included.
func (s *Supervisor) removeVolume(name string) error {
	if users := s.usersOf(name); len(users) > 0 {
		return &api.Error{
			Code:    api.CodeConflict,
			Message: fmt.Sprintf("remove %s: %v - [%s]", name, errVolumeInUse, strings.Join(users, ", ")),
			Hint:    "remove what uses it first: stack down, or stack rm",
		}
	}
	if st := s.servedBy(name); st != nil { // by one that nobody mounts it from
		if err := s.detachVolume(s.ctx, st.project, name); err != nil {
			return err
		}
	}
	if err := s.opt.Volumes.Remove(name); err != nil && !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	s.emit(objectEvent("volume", "destroy", name, name, "", "", nil))
	return nil
}

// errVolumeInUse has docker's words.
var errVolumeInUse = errors.New("volume is in use")

// usersOf names the replicas that mount a volume.
func (s *Supervisor) usersOf(volume string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	users := map[string]bool{}
	for _, r := range s.replicas {
		if r.rec.Uses(volume) {
			users[r.rec.Name] = true
		}
	}
	return sortedKeys(users)
}

// exportVolume reads all that is in a volume as a tar; done ends the machine that
// was started for it, and tells whether all went well.
func (s *Supervisor) exportVolume(ctx context.Context, name string) (tar io.ReadCloser, done func() error, err error) {
	client, v, done, err := s.openVolume(ctx, name, "volume export")
	if err != nil {
		return nil, nil, err
	}
	if tar, err = client.GetVolume(ctx, v); err != nil {
		return nil, nil, errors.Join(machineFault(err), done())
	}
	return tar, done, nil
}

// importVolume unpacks a tar into a volume.
func (s *Supervisor) importVolume(ctx context.Context, req api.VolumeImport, tar io.Reader) (err error) {
	client, v, done, err := s.openVolume(ctx, req.Name, "volume import")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	v.Force = req.Force
	err = client.PutVolume(ctx, v, tar)
	if fault, ok := errors.AsType[*wire.Error](err); ok && fault.Code == wire.CodeConflict {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("volume %s is not empty", req.Name), Hint: "--force adds to what is in it, and replaces files of the same names"}
	}
	return machineFault(err)
}

// openVolume reaches the agent of the machine that has a volume attached, or of
// one made for it alone: a disk is never in two machines. The caller calls done,
// which keeps changes of the project waiting until then.
func (s *Supervisor) openVolume(ctx context.Context, name, what string) (_ *control.Client, _ wire.Volume, done func() error, err error) {
	v, err := s.findVolume(name)
	if err != nil {
		return nil, wire.Volume{}, nil, err
	}
	release, err := s.volumeTurn(ctx, v, what)
	if err != nil {
		return nil, wire.Volume{}, nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	on := wire.Volume{Serial: volumeSerial(name), Bytes: v.Bytes}
	h := s.hostOf(name)
	st := s.servedBy(name)
	if st != nil {
		if h, err = s.storageHost(ctx, st); err != nil {
			return nil, on, nil, err
		}
	}
	if h != nil {
		return h.client.Load(), on, func() error {
			release()
			if st != nil {
				s.settleStorage(st.project)
			}
			return nil
		}, nil
	}
	if h, err = s.bootVolume(ctx, v, what); err != nil {
		return nil, on, nil, err
	}
	return h.client.Load(), on, func() error {
		defer release()
		return s.endVolume(h, name)
	}, nil
}

// hostOf finds the machine that has a volume attached.
func (s *Supervisor) hostOf(volume string) *hosted {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.host != nil && r.host.client.Load() != nil && r.rec.Uses(volume) {
			return r.host
		}
	}
	return nil
}

// volumeMachineMiB is enough for an agent, a file system and its cache.
const volumeMachineMiB = 256

// bare is a machine without an image: its agent and disks are all there is.
type bare struct {
	name      string
	memoryMiB int
	serves    string // id of the storage that it is the machine of
	disks     []machine.Disk
	known     func(*hosted) // called once it runs, before anybody can learn of its end
}

// bootVolume makes a machine that has nothing but a volume. No record of a
// replica leads to it: should the supervisor die, the next one ends it.
func (s *Supervisor) bootVolume(ctx context.Context, v *volume.Volume, what string) (*hosted, error) {
	disk, err := s.volumeDisk(v.Name, "stack "+what)
	if err != nil {
		return nil, err
	}
	defer disk.Lock.Close() // the machine has its own
	name := "volume " + v.Name
	h, err := s.bootBare(ctx, bare{name: name, memoryMiB: volumeMachineMiB, disks: []machine.Disk{disk}})
	if err != nil {
		return nil, fmt.Errorf("%s: starting a machine for it: %w", name, err)
	}
	return h, nil
}

// bootBare makes a machine without an image and returns when its agent answers.
func (s *Supervisor) bootBare(ctx context.Context, b bare) (_ *hosted, err error) {
	guest, err := s.opt.Guest()
	if err != nil {
		return nil, err
	}
	m := state.Machine{
		ID: state.NewID(), Name: b.name, Created: time.Now(), Phase: state.Making, Serves: b.serves,
		VCPUs: 1, MemoryMiB: b.memoryMiB, MTU: s.opt.MTU, Guest: guest.Digest,
	}
	mac := ipam.MAC(m.ID, "trunk")
	m.MAC = mac.String()
	if err := s.opt.State.PutMachine(&m); err != nil {
		return nil, err
	}
	h := s.newHosted(m)
	defer func() {
		if err != nil {
			s.abandon(h)
		}
	}()
	dir := filepath.Join(s.opt.State.MachineDir(m.ID), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	started, err := s.launch(ctx, h, machine.Config{
		ID: m.ID, Name: m.Name, Dir: dir, VCPUs: m.VCPUs, MemoryMiB: m.MemoryMiB,
		Kernel: guest.Kernel, Initramfs: guest.Initramfs, Key: wire.NewKey(), MAC: mac, MTU: m.MTU, Disks: b.disks,
	})
	if started != nil {
		if b.known != nil {
			b.known(h)
		}
		defer h.settle()
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	h.rec.Record, h.rec.Phase = started.Record(), state.Made
	s.mu.Unlock()
	if err := s.putMachine(h); err != nil {
		return nil, err
	}
	if err := s.attachStorage(h); err != nil {
		return nil, err
	}
	if err := s.opt.Fabric.Plug(m.ID, started.Handles()[machine.HandleTrunk]); err != nil {
		return nil, err
	}
	return h, s.connect(ctx, h)
}

// endVolume ends a volume's machine. The client's leaving does not keep it from
// that.
func (s *Supervisor) endVolume(h *hosted, name string) error {
	if err := s.endBare(h); err != nil {
		return fmt.Errorf("volume %s: ending the machine that had it: %w", name, err)
	}
	return nil
}

// endBare ends a machine without an image, whose farewell says whether all is on
// disk.
func (s *Supervisor) endBare(h *hosted) error {
	ctx, cancel := context.WithTimeout(s.ctx, farewellTimeout)
	defer cancel()
	heard, _ := s.leaves(h) // nobody else ends it
	farewell, err := s.shutDown(ctx, h, heard, 0)
	if err != nil {
		s.kill(h)
		return err
	}
	if err := s.waitEnded(s.ctx, h, farewellTimeout); err != nil {
		return err
	}
	if len(farewell.Unsynced) > 0 {
		return fmt.Errorf("not everything could be written to disk: %s", strings.Join(farewell.Unsynced, ", "))
	}
	return nil
}
