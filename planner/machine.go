package planner

import (
	"fmt"
	"slices"

	"github.com/stackvm/stack/spec"
)

// machineAspect is the aspect that says with whom a replica shares its machine,
// and what that is made with.
const machineAspect = "machine"

// machine names the machine that a replica of a service lives in: equal names
// are the same one.
func (d *differ) machine(svc *spec.Service, replica string) string {
	switch {
	case svc == nil || svc.Machine == nil:
		return replica
	case svc.Machine.Container != "":
		return svc.Machine.Container
	case svc.Shared(), svc.Machine.Host == svc.Name && replica == d.name(svc, d.lowest(svc.Name)):
		return "that of service " + svc.Machine.Host
	}
	return replica
}

// lowest is the number of a service's first replica, in which machine others
// live.
func (d *differ) lowest(service string) int {
	if s := d.slots[service]; len(s) > 0 {
		return s[0].number
	}
	if r := d.observed[service]; len(r) > 0 {
		return r[0].Number
	}
	return 1
}

// tied are the services whose first replica a replica of svc is tied to: it is
// made after that, and again when that is.
func tied(svc *spec.Service) []string {
	var out []string
	add := func(name string) {
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, mode := range []string{svc.NetworkMode, svc.IPC, svc.PID} {
		service, _ := spec.Reference(mode)
		add(service)
	}
	for _, from := range svc.VolumesFrom {
		add(from.Service)
	}
	return out
}

// hosts are the steps that make what a replica is tied to. What is neither
// planned nor there is a fault.
func (d *differ) hosts(svc *spec.Service) []*node {
	var out []*node
	for _, name := range tied(svc) {
		switch {
		case len(d.slots[name]) > 0:
			out = append(out, d.slots[name][0].made)
		case d.scope[name] || len(d.observed[name]) == 0:
			d.fault(first(svc.Machine.Pos, svc.Pos), "scale it to 1 at least, and leave --no-deps out",
				"service %q shares a machine with service %q, which has no replica", svc.Name, name)
		}
	}
	return out
}

// emptyMachine stops all that lives in the machine of r before r is made again:
// the machine itself becomes another.
func (d *differ) emptyMachine(svc *spec.Service, r *Replica) []*node {
	if svc.Machine == nil || r.Aspects[machineAspect] == svc.Aspects[machineAspect] {
		return nil
	}
	var out []*node
	for _, name := range svc.Machine.Services {
		for _, o := range d.observed[name] {
			if o.ID == r.ID {
				continue
			}
			stop := d.stopFirst(o, fmt.Sprintf("its machine, which service %q shares, changes", svc.Name))
			if stop == nil {
				continue
			}
			if n := d.leaving[o.ID]; n != nil {
				n.need(stop)
			}
			out = append(out, stop)
		}
	}
	return out
}

// place says in a step in which machine the replica will be.
func (d *differ) place(n *node, svc *spec.Service) {
	if svc.Machine == nil || !svc.Shared() {
		return
	}
	n.Machine = first(svc.Machine.Container, d.name(d.hostOf(svc), d.lowest(svc.Machine.Host)))
	if n.Machine == n.Name {
		n.Machine = "" // its own
	}
}

func (d *differ) hostOf(svc *spec.Service) *spec.Service {
	if host := d.p.Services[svc.Machine.Host]; host != nil {
		return host
	}
	return svc
}
