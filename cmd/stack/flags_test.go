package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// composeFlags are the flags of docker compose v5, by command: NAME, or NAME/X
// with its short form, and =DEFAULT where that is not a flag's empty value. What
// needs a builder is not among them.
var composeFlags = map[string]string{
	"": "file/f project-name/p project-directory profile env-file parallel=-1 progress ansi all-resources compatibility dry-run " +
		"version/v verbose no-ansi workdir insecure-registry",
	"up": "detach/d build no-build pull=policy wait wait-timeout=0 no-deps force-recreate no-recreate always-recreate-deps renew-anon-volumes/V " +
		"remove-orphans scale no-start timeout/t=0 abort-on-container-exit abort-on-container-failure exit-code-from attach no-attach " +
		"attach-dependencies no-log-prefix no-color timestamps menu=true watch/w quiet-pull quiet-build yes/y",
	"down":    "volumes/v volume rmi remove-orphans timeout/t=0",
	"ps":      "all/a quiet/q services format filter status orphans=true no-trunc",
	"logs":    "follow/f since until tail/n=all timestamps/t no-color no-log-prefix index=0",
	"exec":    "detach/d env/e no-tty/T no-TTY index=0 user/u workdir/w privileged interactive/i=true tty/t=true",
	"restart": "no-deps timeout/t=0",
	"run": "rm detach/d env/e env-from-file volume/v volumes publish/p service-ports/P no-deps entrypoint user/u workdir/w name no-TTY/T " +
		"interactive/i=true label/l labels use-aliases cap-add cap-drop build pull=policy remove-orphans quiet/q quiet-build quiet-pull tty/t=true",
	"pull":    "ignore-pull-failures ignore-buildable include-deps policy quiet/q parallel=true no-parallel=true",
	"stop":    "timeout/t=0",
	"start":   "wait wait-timeout=0",
	"config":  "services volumes networks images models profiles hash environment variables format no-interpolate no-normalize no-path-resolution no-env-resolution no-consistency resolve-image-digests lock-image-digests output/o quiet/q",
	"convert": "services format quiet/q output/o",
	"rm":      "force/f stop/s volumes/v all/a",
	"kill":    "signal/s=SIGKILL remove-orphans",
	"cp":      "index=0 all archive/a follow-link/L",
	"ls":      "all/a quiet/q format=table filter",
	"images":  "quiet/q format=table",
	"version": "short format/f=pretty",
	"port":    "protocol=tcp index=0",
	"create":  "build no-build pull=policy quiet-pull force-recreate no-recreate remove-orphans scale yes/y",
	"top":     "",
	"scale":   "no-deps",
	"stats":   "all/a no-stream no-trunc format",
	"events":  "json since until",
	"wait":    "down-project",
	"pause":   "",
	"unpause": "",
	"attach":  "detach-keys sig-proxy=true no-stdin index=0",
	"volumes": "quiet/q format=table",
	"export":  "output/o index=0",
}

// TestComposeFlags: every command has docker compose's flags, with their short
// forms and defaults.
func TestComposeFlags(t *testing.T) {
	a := &app{}
	root := a.root()
	for name, flags := range composeFlags {
		c := root
		if name != "" {
			var err error
			if c, _, err = root.Find([]string{name}); err != nil || c == root {
				t.Errorf("%s: no such command: %v", name, err)
				continue
			}
		}
		for _, spec := range strings.Fields(flags) {
			spec, value, _ := strings.Cut(spec, "=")
			long, short, _ := strings.Cut(spec, "/")
			f := c.Flags().Lookup(long)
			if f == nil {
				f = c.PersistentFlags().Lookup(long)
			}
			if f == nil {
				t.Errorf("%s has no --%s", name, long)
				continue
			}
			if f.Name == long && f.Shorthand != short {
				t.Errorf("%s: --%s has the short form %q, want %q", name, long, f.Shorthand, short)
			}
			def := f.DefValue
			if def == "[]" || def == "false" {
				def = ""
			}
			if def != value {
				t.Errorf("%s: --%s is %q by default, want %q", name, long, def, value)
			}
		}
	}
}

// TestComposeArguments: how many arguments each of docker compose's commands takes.
func TestComposeArguments(t *testing.T) {
	const many = 9
	a := &app{}
	root := a.root()
	for name, bounds := range map[string][2]int{
		"attach": {1, 1}, "config": {0, many}, "cp": {2, 2}, "create": {0, many}, "down": {0, many}, "events": {0, many}, "exec": {2, many},
		"export": {1, 1}, "images": {0, many}, "kill": {0, many}, "logs": {0, many}, "ls": {0, 0}, "pause": {0, many}, "port": {1, 2}, // one lists all, which docker compose cannot

		"ps": {0, many}, "pull": {0, many}, "restart": {0, many}, "rm": {0, many}, "run": {1, many}, "scale": {1, many}, "start": {0, many},
		"stats": {0, 1}, "stop": {0, many}, "top": {0, many}, "unpause": {0, many}, "up": {0, many}, "version": {0, 0}, "volumes": {0, many},
		"wait": {1, many},
	} {
		c, _, err := root.Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		check := c.Args
		if check == nil {
			check = cobra.ArbitraryArgs
		}
		for n := range many + 1 {
			args := strings.Fields(strings.Repeat("x ", n))
			if taken, want := check(c, args) == nil, n >= bounds[0] && n <= bounds[1]; taken != want {
				t.Errorf("%s takes %d arguments: %v, want %v", name, n, taken, want)
			}
		}
	}
}

// TestRefusedFlags: what docker compose refuses before it looks at anything.
func TestRefusedFlags(t *testing.T) {
	t.Setenv("STACK_HOME", t.TempDir())
	for line, want := range map[string]string{
		"logs --index 1":         "--index requires one service to be selected",
		"logs --index 1 a b":     "--index requires one service to be selected",
		"ps --filter status":     "arguments to --filter should be in form KEY=VAL",
		"ps --filter a=b":        "unknown filter a",
		"down --rmi some":        `invalid value for --rmi: "some"`,
		"--ansi bogus ps":        `unsupported --ansi value "bogus"`,
		"--progress bogus ps":    `unsupported --progress value "bogus"`,
		"up --build --no-build":  "--build and --no-build are incompatible",
		"run -P -p 80:80 web sh": "--service-ports and --publish are incompatible",
		"up --no-such":           "unknown flag: --no-such",
		"nosuch":                 `unknown command "nosuch"`,
	} {
		var said bytes.Buffer
		a := &app{out: &said, err: &said}
		root := a.root()
		root.SetArgs(strings.Fields(line))
		if status := a.report(root.ExecuteContext(t.Context())); status != 1 || !strings.Contains(said.String(), want) {
			t.Errorf("%s: status %d, %q, want 1 and %q", line, status, said.String(), want)
		}
	}
}
