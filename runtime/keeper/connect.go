package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/config"
)

// Dial connects to the supervisor of dirs, or returns api.ErrNoSupervisor.
func Dial(ctx context.Context, dirs config.Dirs) (*api.Client, error) {
	run, err := config.RuntimeDir(dirs)
	if err != nil {
		return nil, err
	}
	return api.Dial(ctx, filepath.Join(run, Socket), filepath.Join(dirs.State, Token))
}

// Connect connects to the supervisor of dirs, starting keeper and supervisor
// when none runs, and having an older build replaced by this one. args are the
// arguments with which this binary becomes the keeper (a call of Main).
func Connect(ctx context.Context, dirs config.Dirs, args []string) (*api.Client, error) {
	upgraded := false
	// Each round ends well unless a supervisor ended between being found and
	// being asked; that cannot go on for long.
	for range 10 {
		c, err := Dial(ctx, dirs)
		switch {
		case errors.Is(err, api.ErrNoSupervisor):
			if err := start(ctx, dirs, args); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		ours := api.ThisBuild()
		if upgraded || !ours.Newer(c.Info.Build) && c.Info.API == api.Version {
			return c, nil
		}
		path, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("replacing the older supervisor: %w", err)
		}
		upgraded = true
		if err := c.Upgrade(ctx, api.Upgrade{Executable: path, Build: ours}); err != nil {
			if c.Info.API == api.Version {
				return c, nil // it is busy: it can still do what is asked
			}
			return nil, fmt.Errorf("replacing the older supervisor: %w", err)
		}
	}
	return nil, errors.New("the supervisor ends as soon as it is started: see `stack system logs`")
}

// start starts a keeper and returns when connections are accepted or queued.
func start(ctx context.Context, dirs config.Dirs, args []string) error {
	if err := os.MkdirAll(dirs.State, 0o700); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	if _, err := api.MakeToken(filepath.Join(dirs.State, Token)); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(dirs.State, LogName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(executable(), args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{w} // 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	defer context.AfterFunc(ctx, func() { r.Close() })()
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_ = cmd.Wait() // it closed its end by ending
		return fmt.Errorf("starting the supervisor: it ended at once: see %s", logFile.Name())
	}
	text, failed := strings.CutPrefix(strings.TrimSpace(line), "error ")
	if failed {
		_ = cmd.Wait()
		return fmt.Errorf("starting the supervisor: %s", text)
	}
	if text == "another" {
		_ = cmd.Wait()
		return nil
	}
	return cmd.Process.Release() // it lives on, init's child once we have ended
}

// LogName is the log of keeper and supervisor in the state directory.
const LogName = "supervisor.log"

// WithNone ends the supervisor of dirs, unless machines run, and calls do once
// supervisor and keeper have ended, and while no other can begin.
func WithNone(ctx context.Context, dirs config.Dirs, do func() error) error {
	c, err := Dial(ctx, dirs)
	if err == nil {
		err = c.Shutdown(ctx)
	} else if errors.Is(err, api.ErrNoSupervisor) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("ending the supervisor: %w", err)
	}
	run, err := config.RuntimeDir(dirs)
	if err != nil {
		return err
	}
	for _, name := range []string{startLockName, lockName} { // in a keeper's order
		f, err := os.OpenFile(filepath.Join(run, name), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := lockWaiting(f); err != nil {
			return err
		}
	}
	return do()
}
