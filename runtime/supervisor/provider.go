package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/provider"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// provided is a service with the variables of the providers that it depends on, and
// what tells those from others. Its hooks have them too.
func (s *Supervisor) provided(p *spec.Project, svc *spec.Service) (with *spec.Service, digests map[string]string, err error) {
	variables := map[string]string{}
	for _, dep := range sortedKeys(svc.DependsOn) {
		if o := p.Services[dep]; o == nil || o.Provider == nil {
			continue
		}
		rec, err := s.opt.State.Provider(p.Name, dep)
		switch {
		case errors.Is(err, state.ErrNotFound): // it was not to run
			continue
		case err != nil:
			return nil, nil, err
		}
		if digests == nil {
			digests = map[string]string{}
		}
		digests[dep] = rec.Digest()
		maps.Copy(variables, rec.Variables)
	}
	if len(variables) == 0 {
		return svc, digests, nil
	}
	own := *svc
	own.Environment = merged(svc.Environment, variables)
	own.PreStart = nil
	for _, h := range svc.PreStart {
		container := *h.Container
		container.Environment = merged(h.Container.Environment, variables)
		own.PreStart = append(own.PreStart, spec.PreStart{Container: &container, PerReplica: h.PerReplica})
	}
	return &own, digests, nil
}

func merged(under, over map[string]string) map[string]string {
	out := maps.Clone(under)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, over)
	return out
}

// providerStep has a provider bring a service up, stop it or take it down.
func (c *change) providerStep(ctx context.Context, step planner.Step) error {
	rec, err := c.s.opt.State.Provider(c.name, step.Service)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	if step.Verb != planner.Run {
		if rec == nil {
			return nil // taken down already
		}
		command := provider.Down
		if step.Verb == planner.Stop {
			command = provider.Stop
		}
		if _, err := c.callProvider(ctx, step, rec, nil, command); err != nil || step.Verb == planner.Stop {
			return err
		}
		return c.s.opt.State.DeleteProvider(c.name, step.Service)
	}
	if c.project == nil || c.project.Services[step.Service] == nil || c.project.Services[step.Service].Provider == nil {
		return fmt.Errorf("service %s: the project has no provider for it", step.Service)
	}
	svc := c.project.Services[step.Service]
	next := &state.Provider{
		Project: c.name, Service: svc.Name, Type: svc.Provider.Type, Options: svc.Provider.Options,
		Path: c.given.Paths[svc.Provider.Type], DependsOn: map[string]string{},
	}
	for dep, d := range svc.DependsOn {
		next.DependsOn[dep] = d.Condition
	}
	if rec != nil {
		next.Salt, next.Variables = rec.Salt, rec.Variables
	} else {
		next.Salt = make([]byte, 16)
		rand.Read(next.Salt)
	}
	// Noted before it is begun: whatever comes of it, down takes it down.
	if err := c.s.opt.State.PutProvider(next); err != nil {
		return err
	}
	variables, err := c.callProvider(ctx, step, next, svc.Provider.Config, provider.Up)
	if err != nil {
		return &spec.Error{Pos: svc.Keys["provider"], Err: err}
	}
	before := next.Digest()
	next.Variables, next.Ran = map[string]string{}, time.Now()
	for k, v := range variables.Prefixed {
		next.Variables[strings.ToUpper(svc.Name)+"_"+k] = v
	}
	maps.Copy(next.Variables, variables.Raw)
	if !step.Refresh && rec != nil && before != next.Digest() {
		c.warn("provider %q gives other variables now: what depends on it and was there gets them with the next up", svc.Name)
	}
	for _, name := range sortedKeys(c.project.Services) {
		o := c.project.Services[name]
		if _, ok := o.DependsOn[svc.Name]; !ok {
			continue
		}
		for _, k := range sortedKeys(variables.Raw) { // as docker compose: without the values
			if was, ok := o.Environment[k]; ok && was != variables.Raw[k] {
				c.warn("provider %q overrides environment variable %q in service %q", svc.Name, k, name)
			}
		}
	}
	return c.s.opt.State.PutProvider(next)
}

func (c *change) callProvider(ctx context.Context, step planner.Step, rec *state.Provider, config []byte, command provider.Command) (provider.Variables, error) {
	path := c.given.Paths[rec.Type]
	if path == "" {
		path = rec.Path
	}
	if path == "" {
		return provider.Variables{}, fmt.Errorf("service %q: provider %q: the request does not say where that is", rec.Service, rec.Type)
	}
	v, err := provider.Call{
		Path: path, Env: c.given.Env, Dir: c.given.Dir,
		Project: rec.Project, Service: rec.Service, Type: rec.Type, Options: rec.Options, Config: config,
		Info: func(text string) {
			c.event(api.Event{Kind: api.EventStep, Step: &api.StepEvent{ID: step.ID, Verb: step.Verb, Noun: step.Noun, Name: step.Name, State: api.StepStarted, Text: text}})
		},
		Debug: func(text string) { c.event(api.Event{Kind: api.EventDebug, Text: rec.Service + ": " + text}) },
	}.Run(ctx, command)
	if err != nil {
		err = fmt.Errorf("service %q: %w", rec.Service, err)
	}
	return v, err
}
