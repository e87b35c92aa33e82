package spec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"
)

// Part is what of a project Render prints.
type Part string

// Parts, named as the flags of `config`.
const (
	Model       Part = "" // the whole, in its canonical form
	Services    Part = "services"
	Networks    Part = "networks"
	Volumes     Part = "volumes"
	Models      Part = "models"
	Profiles    Part = "profiles"
	Images      Part = "images"
	Hashes      Part = "hash"
	Variables   Part = "variables"
	Environment Part = "environment"
)

// RenderOptions are the flags of `config`.
type RenderOptions struct {
	Part   Part
	Format string   // yaml (the default) or json; of Model and Variables
	Hash   []string // services whose hash to print; empty or "*": all

	NoInterpolate    bool
	NoNormalize      bool
	NoPathResolution bool
	NoEnvResolution  bool
	NoConsistency    bool

	// Digest finds what a reference names now (--resolve-image-digests); nil
	// leaves references as they are.
	Digest func(ctx context.Context, ref string) (string, error)
	// Lock prints an override file with the digests alone.
	Lock bool
}

// Render prints a project, or a part of it, as `docker compose config` does:
// what is not honoured is printed too.
func Render(ctx context.Context, o Options, r RenderOptions) ([]byte, []Warning, error) {
	l, err := prepare(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	if r.Part == Variables {
		r.NoInterpolate = true
	}
	if l.opt.Compatibility {
		r.NoNormalize = true
	}
	l.lenient = r.NoConsistency
	l.tweak = func(lo *loader.Options) {
		lo.SkipInterpolation = r.NoInterpolate
		lo.ResolvePaths = !r.NoPathResolution
		lo.SkipNormalization = r.NoNormalize
		lo.SkipConsistencyCheck = r.NoConsistency
	}
	out, err := l.render(ctx, r)
	return out, l.warnings, err
}

func (l *loading) render(ctx context.Context, r RenderOptions) ([]byte, error) {
	if !slices.Contains([]string{"", "yaml", "json"}, r.Format) {
		return nil, fmt.Errorf("unsupported format %q", r.Format)
	}
	if r.Part == Hashes {
		return l.renderHashes(ctx, r.Hash)
	}
	if r.NoInterpolate {
		return l.renderRaw(ctx, r)
	}
	services := l.opt.Services
	if slices.Contains([]Part{Services, Networks, Volumes, Models}, r.Part) {
		services = nil
	}
	p, err := l.load(ctx, services)
	if err != nil {
		return nil, err
	}
	var names []string
	switch r.Part {
	case Services:
		names = dependencyOrder(p)
	case Networks:
		names = p.NetworkNames()
	case Volumes:
		names = p.VolumeNames()
	case Models:
		for _, name := range p.ModelNames() {
			names = append(names, p.Models[name].Model)
		}
	case Profiles:
		for _, s := range p.AllServices() {
			names = append(names, s.Profiles...)
		}
		slices.Sort(names)
		names = slices.Compact(names)
	case Images:
		for _, name := range p.ServiceNames() {
			names = append(names, first(p.Services[name].Image, p.Name+"-"+name))
		}
	case Environment:
		names = p.Environment.Values()
	default:
		return l.renderModel(ctx, p, r)
	}
	return listed(names), nil
}

func listed(names []string) []byte {
	if len(names) == 0 {
		return nil
	}
	return []byte(strings.Join(names, "\n") + "\n")
}

func (l *loading) renderModel(ctx context.Context, p *types.Project, r RenderOptions) ([]byte, error) {
	var err error
	if r.Digest != nil {
		p, err = p.WithImagesResolved(func(named reference.Named) (digest.Digest, error) {
			d, err := r.Digest(ctx, named.String())
			return digest.Digest(d), err
		})
		if err != nil {
			return nil, err
		}
	}
	if r.Lock {
		lock := &types.Project{Services: types.Services{}}
		for name, s := range p.Services {
			lock.Services[name] = types.ServiceConfig{ContainerSpec: types.ContainerSpec{Image: s.Image}}
		}
		p = lock
	}
	if before := p; !r.NoEnvResolution {
		if p, err = p.WithServicesEnvironmentResolved(true); err != nil {
			c := &converter{loading: l, x: l.x, src: before}
			c.resolveEnvironments()
			return nil, c.faults.err()
		}
	}
	if !r.NoConsistency {
		if err := p.CheckContainerNameUnicity(); err != nil {
			return nil, l.diagnose(ctx, err)
		}
	}
	var out []byte
	if r.Format == "json" {
		out, err = p.MarshalJSON()
		out = append(out, '\n')
	} else {
		out, err = p.MarshalYAML()
	}
	return bytes.ReplaceAll(out, []byte("$"), []byte("$$")), err
}

// renderRaw prints a model that is not interpolated, which therefore cannot
// become a typed project.
func (l *loading) renderRaw(ctx context.Context, r RenderOptions) ([]byte, error) {
	model, err := l.rawModel(ctx)
	if err != nil {
		return nil, err
	}
	keys := func(section string) []byte {
		m, _ := model[section].(map[string]any)
		return listed(sortedKeys(m))
	}
	switch r.Part {
	case Services, Networks, Volumes, Models:
		return keys(string(r.Part)), nil
	case Variables:
		return renderVariables(template.ExtractVariables(model, template.DefaultPattern), r.Format)
	case Model:
	default:
		return nil, errors.New("--no-interpolate goes with the model, its services, networks and volumes")
	}
	if services, ok := model["services"].(map[string]any); ok && r.Digest != nil {
		for _, name := range sortedKeys(services) {
			s, _ := services[name].(map[string]any)
			image, _ := s["image"].(string)
			if image == "" || strings.Contains(image, "$") {
				continue
			}
			d, err := r.Digest(ctx, image)
			if err != nil {
				return nil, err
			}
			s["image"] = image + "@" + d
		}
	}
	return encode(model, r.Format)
}

// rawModel is what the files say together, as compose-go has it before it gets
// types.
func (l *loading) rawModel(ctx context.Context) (model map[string]any, err error) {
	if err := l.index(ctx); err != nil {
		return nil, err
	}
	err = l.captured(func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("the compose file cannot be read: %v", p)
			}
		}()
		model, err = loader.LoadModelWithContext(ctx, types.ConfigDetails{
			ConfigFiles: slices.Clone(l.files), WorkingDir: l.dir, Environment: l.env,
		}, l.loaderOptions(nil)...)
		return err
	})
	l.placeWarnings()
	if err != nil {
		return nil, l.diagnose(ctx, err)
	}
	return model, nil
}

// Variable is one that the compose files use.
type Variable struct {
	Name     string
	Value    string // what the environment or an env file gives it
	Set      bool   // one of them does
	Default  string // what the files use otherwise
	Required bool
}

// UsedVariables returns the variables that the compose files use, by name.
func UsedVariables(ctx context.Context, o Options) ([]Variable, error) {
	l, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	l.tweak = func(lo *loader.Options) { lo.SkipInterpolation = true }
	model, err := l.rawModel(ctx)
	if err != nil {
		return nil, err
	}
	used := template.ExtractVariables(model, template.DefaultPattern)
	var out []Variable
	for _, name := range sortedKeys(used) {
		v := Variable{Name: name, Default: used[name].DefaultValue, Required: used[name].Required}
		v.Value, v.Set = l.env[name]
		out = append(out, v)
	}
	return out, nil
}

func encode(v any, format string) ([]byte, error) {
	if format == "json" {
		out, err := json.MarshalIndent(v, "", "  ")
		return append(out, '\n'), err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err := e.Encode(v)
	return b.Bytes(), err
}

func renderVariables(vars map[string]template.Variable, format string) ([]byte, error) {
	if format != "" {
		return encode(vars, format)
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 20, 1, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tREQUIRED\tDEFAULT VALUE\tALTERNATE VALUE")
	for _, name := range sortedKeys(vars) {
		v := vars[name]
		fmt.Fprintf(w, "%s\t%t\t%s\t%s\n", name, v.Required, v.DefaultValue, v.PresenceValue)
	}
	err := w.Flush()
	return b.Bytes(), err
}

// renderHashes prints the hashes that replicas are labelled with.
func (l *loading) renderHashes(ctx context.Context, names []string) ([]byte, error) {
	src, err := l.load(ctx, nil)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 || slices.Contains(names, "*") {
		names = sortedKeys(src.Services)
	}
	for _, name := range names {
		if _, ok := src.Services[name]; !ok {
			return nil, fmt.Errorf("no such service: %s", name)
		}
	}
	p, err := l.convert(src)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, name := range slices.Sorted(slices.Values(names)) {
		fmt.Fprintf(&b, "%s %s\n", name, p.Services[name].Hash)
	}
	return b.Bytes(), nil
}

// dependencyOrder is services with what they depend on first.
func dependencyOrder(p *types.Project) []string {
	var out []string
	done := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		s, ok := p.Services[name]
		if !ok || done[name] {
			return
		}
		done[name] = true
		for _, dep := range sortedKeys(s.DependsOn) {
			visit(dep)
		}
		out = append(out, name)
	}
	for _, name := range p.ServiceNames() {
		visit(name)
	}
	return out
}
