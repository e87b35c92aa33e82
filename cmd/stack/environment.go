package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/spec"
)

// settle reads what configures the command line beside its flags, and checks the
// global flags, before any command begins. COMPOSE_ variables may also stand in
// the env files; the environment wins.
func (a *app) settle(cmd *cobra.Command) error {
	if cmd.Hidden {
		return nil // one of the program's own processes
	}
	if a.verbose {
		a.debug = true
	}
	if a.workdir != "" {
		fmt.Fprintln(a.err, "option '--workdir' is DEPRECATED at root level! Please use '--project-directory' instead.")
		if a.load.ProjectDirectory == "" {
			a.load.ProjectDirectory = a.workdir
		}
	}
	a.environ = spec.LookupTable(a.load)
	switch {
	case a.noANSI && a.ansi != "":
		return errors.New(`cannot specify DEPRECATED "--no-ansi" and "--ansi". Please use only "--ansi"`)
	case a.noANSI:
		fmt.Fprintln(a.err, "option '--no-ansi' is DEPRECATED ! Please use '--ansi' instead.")
		a.ansi = "never"
	case a.ansi == "":
		a.ansi = a.getenv("COMPOSE_ANSI")
	}
	switch a.ansi {
	case "", "auto", "never", "always":
	default:
		return fmt.Errorf("unsupported --ansi value %q: use never, always or auto", a.ansi)
	}
	if a.progress == "" {
		a.progress = a.getenv("COMPOSE_PROGRESS")
	}
	mode, err := render.ParseMode(a.progress)
	switch {
	case err != nil:
		return err
	case mode == render.ModeTTY && a.ansi == "never":
		return errors.New("can't use --progress tty while ANSI support is disabled")
	case mode == render.ModePlain && a.ansi == "always":
		return errors.New("can't use --progress plain while ANSI support is forced")
	}
	if limit := a.getenv("COMPOSE_PARALLEL_LIMIT"); limit != "" && !cmd.Root().Flags().Changed("parallel") {
		if a.parallel, err = strconv.Atoi(limit); err != nil {
			return fmt.Errorf("COMPOSE_PARALLEL_LIMIT must be an integer (found: %q)", limit)
		}
	}
	name := cmd.Name()
	if parent := cmd.Parent(); parent != nil && parent.HasParent() {
		name = parent.Name() + " " + name
	}
	if a.dryRun && cmd.HasParent() && !dryRuns[name] {
		return fmt.Errorf("stack %s has no --dry-run", name)
	}
	if f := cmd.Flags().Lookup("remove-orphans"); f != nil && !f.Changed && a.envBool("COMPOSE_REMOVE_ORPHANS") {
		// As the flag's default would: Changed stays for what the user typed.
		return f.Value.Set("true")
	}
	return nil
}

// getenv is a variable of the environment, or a COMPOSE_ one of the env files.
func (a *app) getenv(name string) string {
	if v, ok := a.environ[name]; ok && strings.HasPrefix(name, "COMPOSE_") {
		return v
	}
	return os.Getenv(name)
}

// envBool tells whether a variable is set to a word for true, as docker compose
// reads it.
func (a *app) envBool(name string) bool {
	v, err := strconv.ParseBool(strings.ToLower(strings.TrimSpace(a.getenv(name))))
	return err == nil && v
}

// colour reports whether w may get ANSI control characters.
func (a *app) colour(w io.Writer) bool {
	switch {
	case os.Getenv("NO_COLOR") != "" || a.ansi == "never":
		return false
	case a.ansi == "always" || os.Getenv("CLICOLOR_FORCE") != "":
		return true
	}
	return isTerminal(w) && os.Getenv("TERM") != "dumb"
}

// progressOut is where progress goes, and newProgress how it looks there.
func (a *app) progressOut() io.Writer {
	if a.envBool("COMPOSE_STATUS_STDOUT") {
		return a.out
	}
	return a.err
}

func (a *app) progressMode() (render.Mode, error) {
	mode, err := render.ParseMode(a.progress)
	if mode == render.ModeAuto {
		mode = render.ModePlain
		if out := a.progressOut(); isTerminal(out) && a.colour(out) {
			mode = render.ModeTTY
		}
	}
	return mode, err
}

func (a *app) newProgress(operation string, dryRun bool) (render.Progress, error) {
	mode, err := a.progressMode()
	if err != nil {
		return nil, err
	}
	out := a.progressOut()
	return render.NewProgress(mode, out, operation, dryRun, func() (int, int) { return terminalSize(out) }), nil
}
