package autostart

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Unit is the systemd user unit of one STACK_HOME.
type Unit struct {
	Dir        string // of the user's units: ${XDG_CONFIG_HOME:-~/.config}/systemd/user
	Executable string // absolute path of this program
	// Environment is what the program must find its home again by: STACK_HOME, or
	// the XDG directories, where they are set. It names the unit.
	Environment map[string]string
}

// Variables are those that tell where a home is.
var Variables = []string{"STACK_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}

// New returns the unit of the environment that getenv reads.
func New(executable string, getenv func(string) string) (*Unit, error) {
	u := &Unit{Executable: executable, Environment: map[string]string{}}
	for _, name := range Variables {
		v := getenv(name)
		if name == "STACK_HOME" && v != "" {
			var err error
			if v, err = filepath.Abs(v); err != nil {
				return nil, fmt.Errorf("STACK_HOME: %w", err)
			}
		}
		if filepath.IsAbs(v) { // others are ignored, as config.FindDirs does
			u.Environment[name] = v
		}
	}
	config := u.Environment["XDG_CONFIG_HOME"]
	if config == "" {
		home := getenv("HOME")
		if home == "" {
			return nil, errors.New("finding the user's systemd units: HOME is not set")
		}
		config = filepath.Join(home, ".config")
	}
	u.Dir = filepath.Join(config, "systemd", "user")
	return u, nil
}

// mark is in the first line of every unit of ours: no other file is overwritten
// or removed.
const mark = "# Written by stack autostart on; stack autostart off removes it."

// Name of the unit: of the default home "stack.service", of others with a digest.
func (u *Unit) Name() string {
	if len(u.Environment) == 0 {
		return "stack.service"
	}
	h := sha256.New()
	for _, name := range Variables {
		fmt.Fprintf(h, "%s=%q\n", name, u.Environment[name])
	}
	return "stack-" + hex.EncodeToString(h.Sum(nil)[:4]) + ".service"
}

// Path of the unit's file, and of the link by which it is enabled.
func (u *Unit) Path() string { return filepath.Join(u.Dir, u.Name()) }
func (u *Unit) link() string { return filepath.Join(u.Dir, "default.target.wants", u.Name()) }

// Text of the unit. The program starts keeper and machines and ends; they stay in
// the unit's control group, which is ended by ExecStop before anything is killed.
func (u *Unit) Text() (string, error) {
	var env strings.Builder
	for _, name := range Variables {
		if v, ok := u.Environment[name]; ok {
			q, err := quote(name + "=" + v)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&env, "Environment=%s\n", q)
		}
	}
	program, err := quote(u.Executable)
	if err != nil {
		return "", err
	}
	// A colon keeps systemd from looking for variables in the arguments.
	return mark + `
[Unit]
Description=Containers of stack that restart by themselves
Documentation=man:stack(1)

[Service]
Type=oneshot
RemainAfterExit=yes
` + env.String() + `ExecStart=:` + program + ` autostart run
ExecStop=:` + program + ` autostart end
TimeoutStartSec=infinity
TimeoutStopSec=5min
KillMode=mixed

[Install]
WantedBy=default.target
`, nil
}

// quote writes one word of a unit file (systemd.service(5), "Command lines";
// systemd.unit(5), "Specifiers").
func quote(word string) (string, error) {
	if strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("systemd cannot be told of %q: it has control characters", word)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(word) + `"`, nil
}

// On writes and enables the unit; one that is there already is brought up to
// date. It starts nothing.
func (u *Unit) On(ctx context.Context) error {
	text, err := u.Text()
	if err != nil {
		return err
	}
	if _, err := u.ours(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(u.link()), 0o755); err != nil {
		return fmt.Errorf("enabling autostart: %w", err)
	}
	if err := replace(u.Path(), []byte(text)); err != nil {
		return fmt.Errorf("enabling autostart: %w", err)
	}
	if err := os.Symlink(filepath.Join("..", u.Name()), u.link()); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("enabling autostart: %w", err)
	}
	reload(ctx)
	return nil
}

// Off removes the unit. It ends nothing.
func (u *Unit) Off(ctx context.Context) error {
	there, err := u.ours()
	if err != nil || !there {
		return err
	}
	// The link first: without the unit it would be a fault of every start.
	for _, path := range []string{u.link(), u.Path()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disabling autostart: %w", err)
		}
	}
	reload(ctx)
	return nil
}

// IsOn tells whether the unit is there, enabled, and as this program writes it.
func (u *Unit) IsOn() (on, current bool, err error) {
	there, err := u.ours()
	if err != nil || !there {
		return false, false, err
	}
	if _, err := os.Stat(u.link()); err != nil {
		return false, false, nil //nolint:nilerr // somebody disabled it
	}
	text, err := u.Text()
	if err != nil {
		return true, false, err
	}
	have, err := os.ReadFile(u.Path())
	return true, string(have) == text, err
}

// ours tells whether the unit's file is there; one of somebody else's is an error.
func (u *Unit) ours() (bool, error) {
	have, err := os.ReadFile(u.Path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for the autostart unit: %w", err)
	case !bytes.HasPrefix(have, []byte(mark)):
		return false, fmt.Errorf("%s was not written by stack: it is left alone", u.Path())
	}
	return true, nil
}

func replace(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".stack-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// reload tells a user manager that runs. Where none does, or no systemctl is, the
// next one that starts reads the files.
func reload(ctx context.Context) {
	_ = exec.CommandContext(ctx, "systemctl", "--user", "daemon-reload").Run()
}

// Lingers tells whether a user's services start at boot, without a login
// (loginctl enable-linger). root is the host's file system.
func Lingers(root fs.FS, user string) bool {
	_, err := fs.Stat(root, "var/lib/systemd/linger/"+user)
	return err == nil
}
