package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/doctor"
	"github.com/stackvm/stack/runtime/image/registry"
	"github.com/stackvm/stack/runtime/keeper"
	"github.com/stackvm/stack/runtime/sandbox"
	"github.com/stackvm/stack/runtime/supervisor"
)

// The arguments with which this binary becomes its other processes.
var (
	keeperArgs     = []string{"system", "keeper"}
	supervisorArgs = []string{"system", "supervisor"}
)

// dial connects to the supervisor if one runs; connect starts one.
func (a *app) dial(ctx context.Context) (*api.Client, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	return keeper.Dial(ctx, dirs)
}

func (a *app) connect(ctx context.Context) (*api.Client, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	return keeper.Connect(ctx, dirs, keeperArgs)
}

// keeperProcess and supervisorProcess are not for people.
func (a *app) keeperProcess() *cobra.Command {
	return &cobra.Command{
		Use: "keeper", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dirs, err := a.dirs()
			if err != nil {
				return err
			}
			return keeper.Main(dirs, supervisorArgs)
		},
	}
}

func (a *app) supervisorProcess() *cobra.Command {
	return &cobra.Command{
		Use: "supervisor", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.supervise() },
	}
}

// supervise assembles a supervisor from this host's parts and runs it.
func (a *app) supervise() error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	unix.Umask(0o077)
	link, held, err := keeper.Attach()
	if err != nil {
		return err
	}
	defer link.Close()
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	logFile, err := keeper.OpenLog(dirs.State)
	if err != nil {
		return err
	}
	defer logFile.Close()
	log := slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: slog.LevelDebug})).With("process", "supervisor", "pid", os.Getpid())
	token, err := api.MakeToken(filepath.Join(dirs.State, keeper.Token))
	if err != nil {
		return err
	}
	listener, err := net.FileListener(held[keeper.Listener])
	if err != nil {
		return fmt.Errorf("listening for commands: %w", err)
	}
	delete(held, keeper.Listener)
	s, closeStores, err := a.assemble(link, held, log)
	if err != nil {
		// A configuration that is wrong, a state that is newer: who asks is told, and
		// while machines run it is tried again.
		log.Error("starting", "err", err)
		kept := len(held)
		if refuseErr := supervisor.Refuse(listener.(*net.UnixListener), token, err); refuseErr != nil || kept > 0 {
			return errors.Join(err, refuseErr)
		}
		return link.End()
	}
	serving := make(chan error, 1)
	go func() { serving <- s.Serve(listener.(*net.UnixListener), token) }() // ends with s
	select {
	case err = <-serving: // idle for long enough, handed over, or broken
	case <-ended:
		s.EndAll(context.Background())
	}
	err = errors.Join(err, s.Close(), closeStores())
	if !s.HandedOver() {
		err = errors.Join(err, link.End())
	}
	return err
}

// credentials turns what a command line found in its environment into what a
// pull takes.
func credentials(r api.Registry) (authn.Keychain, func(*http.Request) (*url.URL, error)) {
	c := registry.Credentials{}
	for host, a := range r.Auth {
		c[host] = authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	}
	return c, config.Proxy{HTTP: r.HTTPProxy, HTTPS: r.HTTPSProxy, NoProxy: r.NoProxy}.Func()
}

func imagesDir(d config.Dirs) string  { return filepath.Join(d.Data, "images") }
func volumesDir(d config.Dirs) string { return filepath.Join(d.Data, "volumes") }

// host is this machine as doctor asks about it.
func (a *app) host() doctor.Host {
	dirs, settings, settingsErr := a.settings()
	if settings == nil {
		settings = &config.Config{}
	}
	driver := probeDriver(dirs, settings)
	h := doctor.Host{
		Files:  os.DirFS("/"),
		Getenv: os.Getenv,
		OpenKVM: func() error {
			f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
			if err == nil {
				f.Close()
			}
			return err
		},
		QEMU:  driver.find,
		Accel: driver.accel,
		Guest: func() (string, string, error) {
			g, err := guest.Find(os.Getenv)
			if err != nil {
				return "", "", err
			}
			return g.Digest, g.Dir, nil
		},
		FreeBytes: func() (int64, string, error) { return supervisor.FreeBytes(dirs.Data) },
		Landlock:  sandbox.ABI,
		Settings: func() ([]doctor.Setting, error) {
			var all []doctor.Setting
			for _, v := range settings.Values() {
				all = append(all, doctor.Setting(v))
			}
			return all, settingsErr
		},
		Registries: []string{config.DockerHub},
		Reach: func(ctx context.Context, host string) error {
			client := registry.New(registry.Options{Config: settings})
			defer client.Close()
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return client.Ping(ctx, host)
		},
	}
	return h
}
