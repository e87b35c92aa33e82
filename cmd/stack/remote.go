package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image/registry"
	"github.com/stackvm/stack/runtime/remote"
	"github.com/stackvm/stack/spec"
)

// remoteFiles fetches compose files from git and registries with what the
// command line and the user's configuration say. It is a spec.Remote.
type remoteFiles struct {
	*app
	fetched []string // names, as they may be shown, in the order of fetching
}

func (*remoteFiles) Accepts(name string) bool { return remote.Accepts(name) }

func (r *remoteFiles) Fetch(ctx context.Context, name string, any bool) (spec.Fetched, error) {
	dirs, err := r.dirs()
	if err != nil {
		return spec.Fetched{}, err
	}
	files := remote.New(remote.Options{Dir: filepath.Join(dirs.Data, "compose"), Getenv: r.getenv, Registry: r.artifacts, Fetching: r.fetching})
	got, err := files.Fetch(ctx, name, any)
	if shown := remote.Shown(name); err == nil && !slices.Contains(r.fetched, shown) {
		r.fetched = append(r.fetched, shown)
	}
	return got, err
}

// fetching shows that a copy is being made.
func (r *remoteFiles) fetching(name string) func(bool) {
	p, err := r.newProgress("fetch", false)
	if err != nil { // settle has said so
		return func(bool) {}
	}
	e := render.Event{ID: "Compose file " + name, Status: render.Working, Text: "Fetching"}
	p.On(e)
	return func(made bool) {
		if made {
			e.Status, e.Text = render.Done, "Fetched"
			p.On(e)
		}
		p.Close()
	}
}

// artifacts is a client for the registry of a published project.
func (r *remoteFiles) artifacts(ctx context.Context, repo registry.Repository) (*registry.Client, error) {
	_, c, err := r.settings()
	if err != nil {
		return nil, err
	}
	c = plainHTTP(c, r.insecure)
	found, err := registry.FindCredentials(ctx, authn.DefaultKeychain, c, []registry.Repository{repo})
	if err != nil {
		return nil, err
	}
	return registry.New(registry.Options{Config: c, Keychain: found, Held: r.held}), nil
}

// plainHTTP is a configuration in which hosts speak HTTP without TLS.
func plainHTTP(c *config.Config, hosts []string) *config.Config {
	changed := *c
	changed.Registries = maps.Clone(c.Registries)
	if changed.Registries == nil {
		changed.Registries = map[string]config.Registry{}
	}
	for _, host := range hosts {
		how := changed.Registries[host]
		how.PlainHTTP = true
		changed.Registries[host] = how
	}
	return &changed
}

// errCancelled is the end of a command whose question was answered with no, in
// docker compose's words.
var errCancelled = errors.New("operation cancelled by user")

// confirmRemote has the user agree to run a project whose main file came from
// elsewhere, as docker compose does: to the files that it includes from there,
// and to the values of its variables, of which assigned are set by flags. What it
// says goes to a stream that is not the project's own output.
func (a *app) confirmRemote(ctx context.Context, to io.Writer, load spec.Options, p *spec.Project, yes bool, assigned []string) error {
	r, _ := load.Remote.(*remoteFiles)
	if r == nil || len(r.fetched) == 0 || a.dryRun {
		return nil
	}
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(p.Files[0], filepath.Join(dirs.Data, "compose")+string(filepath.Separator)) {
		return nil
	}
	if len(r.fetched) > len(p.Files) && !yes { // some are included
		fmt.Fprintln(to, "\nWarning: This Compose project includes files from remote sources:")
		for _, name := range r.fetched {
			fmt.Fprintln(to, "  -", name)
		}
		fmt.Fprintln(to, "\nRemote includes could potentially be malicious. Make sure you trust the source.")
		if ok, err := a.ask(ctx, "Do you want to continue?", false); err != nil || !ok {
			return errors.Join(err, refusal(ok))
		}
	}
	mode, err := a.progressMode()
	if err != nil {
		return err
	}
	if mode != render.ModeQuiet && mode != render.ModeJSON {
		fmt.Fprintf(to, "Your compose stack %q is stored in %q\n", r.fetched[0], p.WorkingDir)
	}
	if yes {
		return nil
	}
	variables, err := spec.UsedVariables(ctx, load)
	if err != nil || len(variables) == 0 {
		return err
	}
	showVariables(to, variables, assigned)
	ok, err := a.ask(ctx, "\nDo you want to proceed with these variables?", true)
	return errors.Join(err, refusal(ok))
}

// refusal is the error of a question that was answered with no.
func refusal(agreed bool) error {
	if agreed {
		return nil
	}
	return errCancelled
}

// showVariables prints the variables of a project with the values that they get.
func showVariables(to io.Writer, variables []spec.Variable, assigned []string) {
	fmt.Fprintln(to, "\nFound the following variables in configuration:")
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "VARIABLE\tVALUE\tSOURCE\tREQUIRED\tDEFAULT")
	for _, v := range variables {
		value, source := "<unset>", "none"
		flag := slices.IndexFunc(assigned, func(kv string) bool { return strings.HasPrefix(kv, v.Name+"=") })
		switch {
		case flag >= 0:
			value, source = assigned[flag][len(v.Name)+1:], "command-line"
		case v.Set:
			value, source = v.Value, "environment"
		case v.Default != "":
			value, source = v.Default, "compose file"
		}
		required := "no"
		if v.Required {
			required = "yes"
		}
		for _, cell := range []string{v.Name, value, source, required} {
			fmt.Fprint(w, spec.Printable(cell), "\t")
		}
		fmt.Fprintln(w, spec.Printable(v.Default))
	}
	_ = w.Flush() // as of Fprintln: who closed the output does not read it
}
