package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/network"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/keeper"
	"github.com/stackvm/stack/runtime/logs"
	"github.com/stackvm/stack/runtime/machine/qemu"
	"github.com/stackvm/stack/runtime/sandbox"
	"github.com/stackvm/stack/runtime/share"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/supervisor"
	"github.com/stackvm/stack/runtime/volume"
)

// reexecuted turns this process into a sandboxed one if it was started for that.
func reexecuted() {
	sandbox.MaybeRun()
	share.MaybeRun()
}

// assemble makes a supervisor of this host's parts; closeStores ends what it
// leaves open.
func (a *app) assemble(link *keeper.Link, held map[string]*os.File, log *slog.Logger) (s *supervisor.Supervisor, closeStores func() error, err error) {
	dirs, settings, err := a.settings()
	if err != nil {
		return nil, nil, err
	}
	images, err := image.Open(imagesDir(dirs), image.Options{Config: settings, Log: log})
	if err != nil {
		return nil, nil, err
	}
	fabric := network.New(network.Options{Log: log})
	driver := qemu.New(qemuOptions(dirs, settings, log))
	template := volume.NewTemplate(func() (string, string, error) {
		g, err := guest.Find(os.Getenv)
		if err != nil {
			return "", "", err
		}
		return g.Ext4Template, g.Digest, nil
	}, filepath.Join(dirs.State, "cache"))

	s, err = supervisor.New(supervisor.Options{
		State: state.Open(dirs.State), Driver: driver, Images: images,
		Volumes: volume.Open(volumesDir(dirs), template), Scratch: template,
		Shares: supervisor.HostShares{}, Fabric: fabric, Keeper: link, Held: held, Log: log,
		Guest: func() (supervisor.Guest, error) {
			g, err := guest.Find(os.Getenv)
			if err != nil {
				return supervisor.Guest{}, err
			}
			return supervisor.Guest{Kernel: g.Kernel, Initramfs: g.Initramfs, Digest: g.Digest}, nil
		},
		Emulated: func(ctx context.Context) string {
			g, err := guest.Find(os.Getenv)
			if err != nil {
				return "" // whoever boots a machine says so
			}
			if v, err := driver.Verdict(ctx, g.Kernel, g.Initramfs); err == nil && v.Accel == qemu.TCG {
				return v.Reason
			}
			return ""
		},
		Release:     credentials,
		HostCAs:     config.HostCAs,
		StoreDir:    volumesDir(dirs),
		Rotation:    logs.Rotation{MaxBytes: settings.Logs.MaxSize, MaxFiles: settings.Logs.MaxFile},
		RemovedLogs: settings.Logs.Removed,
		MemoryMiB:   int(settings.Memory >> 20),
		Handover:    link.Exec,
		Build:       api.ThisBuild(),
	})
	if err != nil {
		return nil, nil, errors.Join(err, images.Close())
	}
	return s, images.Close, nil
}

// probe asks the driver what doctor wants to know.
type probe struct{ driver *qemu.Driver }

func probeDriver(dirs config.Dirs, settings *config.Config) probe {
	return probe{qemu.New(qemuOptions(dirs, settings, nil))}
}

func (p probe) find(ctx context.Context) (string, error) {
	b, err := p.driver.Find(ctx)
	return b.Version, err
}

func (p probe) accel(ctx context.Context) (accel, reason string, err error) {
	g, err := guest.Find(os.Getenv)
	if err != nil {
		return "", "", err
	}
	v, err := p.driver.Verdict(ctx, g.Kernel, g.Initramfs)
	return string(v.Accel), v.Reason, err
}

func qemuOptions(dirs config.Dirs, settings *config.Config, log *slog.Logger) qemu.Options {
	o := qemu.Options{CacheDir: filepath.Join(dirs.State, "cache"), Log: log}
	if settings.Accel != config.AccelAuto {
		o.Accel = qemu.Accel(settings.Accel)
	}
	return o
}
