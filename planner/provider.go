package planner

import "fmt"

// planProvider runs a service's provider, once in a command: it looks itself whether
// there is anything to do. What depends on it is made with its variables, so only
// one that depends on nothing can have run before the rest is planned.
func (d *differ) planProvider(name string) {
	svc := d.p.Services[name]
	if have, ok := d.s.Providers[name]; ok && !have.Ran.Before(d.opt.Now) {
		return
	}
	n := d.add(Step{
		Verb: Run, Noun: ProviderNoun, Name: name, Service: name, Refresh: len(d.deps[name]) == 0,
		Cause: fmt.Sprintf("provider %s%s", svc.Provider.Type, where(first(svc.Keys["provider"], svc.Pos))),
	})
	d.providers[name] = n
}

// provided returns why a replica's variables are no longer what the providers that
// it depends on give, or nothing. What a provider has not said yet is not known.
func (d *differ) provided(service string, r *Replica) string {
	for _, dep := range sortedKeys(d.deps[service]) {
		if have, ok := d.s.Providers[dep]; ok && d.p.Services[dep].Provider != nil && d.providers[dep] == nil && have.Variables != r.Provided[dep] {
			return fmt.Sprintf("variables of provider %q changed", dep)
		}
	}
	return ""
}

// providersOf are the runs of providers that a service depends on.
func (d *differ) providersOf(service string) []*node {
	var out []*node
	for _, dep := range sortedKeys(d.deps[service]) {
		out = append(out, d.providers[dep])
	}
	return out
}

// provider adds a step on a service that a provider has brought up.
func (b *builder) provider(v Verb, name, cause string, after []*node) *node {
	return b.add(Step{Verb: v, Noun: ProviderNoun, Name: name, Service: name, Cause: cause}, after...)
}
