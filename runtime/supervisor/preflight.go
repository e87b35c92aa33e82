package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/docker/go-units"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// lowSpace is how little free space is worth a warning, in bytes.
const lowSpace = 2 << 30

// resolveImages asks for every image that a plan pulls, side by side: one that
// does not exist is known before anything has changed.
func (c *change) resolveImages(ctx context.Context, plan planner.Plan) []error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	faults := map[string]error{}
	for _, step := range plan.Steps {
		if step.Verb != planner.Pull {
			continue
		}
		wg.Go(func() {
			p := c.pulled(step)
			opt := c.s.pullOptions(p, c.reg)
			opt.Progress = func(pr image.Progress) { sendHold(p, pr, c.event) }
			_, err := c.s.opt.Images.Resolve(ctx, p.Reference, opt)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults[p.Reference] = &spec.Error{Pos: p.Pos, Err: err}
			}
		})
	}
	wg.Wait()
	var all []error
	for _, ref := range sortedKeys(faults) {
		all = append(all, faults[ref])
	}
	return all
}

// preflight looks for all that would make a plan fail half way and can be known
// before: ports, host folders, what machines boot. It returns every fault there
// is, and warnings.
func (s *Supervisor) preflight(p *spec.Project, plan planner.Plan) (warnings []string, faults []error) {
	made, starting := map[string]bool{}, map[string]bool{}
	running := map[string]map[string]bool{} // by service: the replicas that will run
	runs := func(service, name string) {
		if running[service] == nil {
			running[service] = map[string]bool{}
		}
		running[service][name] = true
	}
	leaving := map[string]bool{} // replicas whose ports are free by then
	for _, step := range plan.Steps {
		if step.Noun != planner.ReplicaNoun {
			continue
		}
		switch step.Verb {
		case planner.Create, planner.Recreate:
			made[step.Service] = true
		case planner.Start, planner.Restart:
			starting[step.Service] = true
			runs(step.Service, step.Name)
		}
		if step.Replica != "" && step.Verb != planner.Wait {
			leaving[step.Replica] = true
		}
	}
	if len(made)+len(starting) == 0 {
		return nil, nil
	}
	if _, err := s.opt.Guest(); err != nil {
		faults = append(faults, err)
	}
	dirs := []string{s.opt.State.Dir()}
	if s.opt.StoreDir != "" {
		dirs = append(dirs, s.opt.StoreDir)
	}
	if free, at, err := s.leastFree(dirs); err == nil && free < lowSpace {
		warnings = append(warnings, fmt.Sprintf("only %s are free on the host, in %s: machines are paused when it is full", units.BytesSize(float64(free)), at))
	}
	if p == nil {
		return warnings, faults
	}
	for _, step := range plan.Steps {
		if svc := p.Services[step.Service]; step.Noun == planner.ReplicaNoun && step.Verb == planner.Create && svc != nil {
			if held := s.nameHolder(step.Name, p.Name); held != "" {
				faults = append(faults, nameTaken(svc, step.Name, held))
			}
		}
	}
	for _, name := range plan.Kept {
		runs(s.serviceOf(name), name)
	}
	held := s.heldPorts(leaving)
	wanted := map[socket]*spec.Service{}
	for _, name := range sortedKeys(p.Services) {
		svc := p.Services[name]
		if made[name] {
			faults = append(faults, checkMounts(svc)...)
			if err := s.sharing(p, svc, &making{}); err != nil {
				faults = append(faults, err)
			}
		}
		if !made[name] && !starting[name] {
			continue
		}
		for _, port := range svc.Ports {
			if port.Published == 0 || svc.Scale == 0 {
				continue
			}
			if n, room := len(running[name]), max(int(port.PublishedEnd)-int(port.Published), 0)+1; n > room {
				faults = append(faults, tooFewPorts(svc, port, n, room))
				continue
			}
			faults = append(faults, s.checkPort(svc, port, held, wanted)...)
		}
	}
	return warnings, faults
}

// tooFewPorts says that a service's replicas cannot all be published.
func tooFewPorts(svc *spec.Service, port spec.Port, replicas, ports int) error {
	have := fmt.Sprintf("port %d", port.Published)
	if ports > 1 {
		have = fmt.Sprintf("ports %d-%d", port.Published, port.PublishedEnd)
	}
	return &spec.Error{
		Pos: port.Pos, Err: fmt.Errorf("service %q: publishing %s: %d containers want one each", svc.Name, have, replicas),
		Hint: fmt.Sprintf("publish a range, such as %d-%d:%d, or leave the host's port out", port.Published, int(port.Published)+replicas-1, port.Target),
	}
}

// serviceOf is the service of a replica by name, "" if there is none.
func (s *Supervisor) serviceOf(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.rec.Name == name {
			return r.rec.Service
		}
	}
	return ""
}

// nameHolder says who has a container name, in any project but one, whose own
// conflicts the planner finds; "" is nobody.
func (s *Supervisor) nameHolder(name, except string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.rec.Name == name && r.rec.Project != except {
			return fmt.Sprintf("container %s of project %q", r.rec.ID[:12], r.rec.Project)
		}
	}
	return ""
}

func nameTaken(svc *spec.Service, name, held string) error {
	pos, ok := svc.Keys["container_name"]
	if !ok {
		pos = svc.Pos
	}
	return &spec.Error{
		Pos:  pos,
		Err:  fmt.Errorf("service %q: container name %q is already in use by %s", svc.Name, name, held),
		Hint: "remove that container, or give one of them another name",
	}
}

// heldPorts are the ports we listen on ourselves, by socket, with the replica's
// name; not those of replicas that the plan stops.
func (s *Supervisor) heldPorts(leaving map[string]bool) map[socket]string {
	held := map[socket]string{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		for _, p := range r.rec.Published {
			ip, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				continue
			}
			name := r.rec.Name
			if leaving[r.rec.ID] {
				name = ""
			}
			held[socket{p.Protocol, netip.AddrPortFrom(ip, p.HostPort)}] = name
		}
		for _, p := range r.rec.HostPorts {
			held[placeOf(p)] = ""
			if !leaving[r.rec.ID] {
				held[placeOf(p)] = r.rec.Name
			}
		}
	}
	return held
}

func (s *Supervisor) checkPort(svc *spec.Service, port spec.Port, held map[socket]string, wanted map[socket]*spec.Service) (faults []error) {
	var last error
	for n := uint32(port.Published); n <= uint32(max(port.Published, port.PublishedEnd)); n++ {
		last = nil
		for _, ip := range hostAddrs(port.HostIP) {
			k := socket{port.Protocol, netip.AddrPortFrom(ip, uint16(n))}
			if other := wanted[k]; other != nil && port.PublishedEnd == 0 && other != svc {
				last = &spec.Error{Pos: port.Pos, Err: fmt.Errorf("service %q: publishing port %d: service %q publishes it too", svc.Name, n, other.Name)}
				break
			}
			if owner, ok := held[k]; ok {
				if owner != "" {
					last = &spec.Error{
						Pos: port.Pos, Err: fmt.Errorf("service %q: publishing port %d: container %s publishes it", svc.Name, n, owner),
						Hint: "change the host port, or stop that container",
					}
					break
				}
				wanted[k] = svc
				continue
			}
			if err := tryListen(k); err != nil {
				last = s.portError(state.PublishSpec{Port: port, Service: svc.Name}, k.addr, err)
				break
			}
			wanted[k] = svc
		}
		if last == nil {
			return nil
		}
	}
	return []error{last}
}

func tryListen(k socket) error {
	if k.proto == "udp" {
		c, err := net.ListenUDP(family("udp", k.addr), net.UDPAddrFromAddrPort(k.addr))
		if err == nil {
			c.Close()
		}
		return err
	}
	l, err := net.ListenTCP(family("tcp", k.addr), net.TCPAddrFromAddrPort(k.addr))
	if err == nil {
		l.Close()
	}
	return err
}

// portError says why a port cannot be published, and what to do.
func (s *Supervisor) portError(p state.PublishSpec, at netip.AddrPort, err error) error {
	e := listenError(fmt.Sprintf("service %q: publishing", p.Service), socket{p.Protocol, at}, err, s.portHolder)
	e.Pos = p.Pos
	return e
}

// listenError says why a port cannot be listened on, and what to do. holder tells
// what of our own has it.
func listenError(what string, at socket, err error, holder func(socket) (what, cure string)) *spec.Error {
	what = fmt.Sprintf("%s port %d", what, at.addr.Port())
	e := &spec.Error{}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		ours, cure := holder(at)
		if ours != "" {
			e.Err = fmt.Errorf("%s: %w: %s", what, syscall.EADDRINUSE, ours)
			e.Hint = "take another port of the host, or " + cure
			return e
		}
		e.Err = &portInUse{fmt.Errorf("%s: %w", what, syscall.EADDRINUSE), at}
		e.Hint = "another program listens on it: change the host port, or stop that program"
		if owner := portOwner(at.proto, at.addr); owner != "" {
			e.Hint = owner + " listens on it: change the host port, or stop that program"
		}
	case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM):
		e.Err = fmt.Errorf("%s: ports below %d are reserved for root", what, unprivilegedStart())
		e.Hint = fmt.Sprintf("allow it with: sudo sysctl -w net.ipv4.ip_unprivileged_port_start=%d", at.addr.Port())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		e.Err = fmt.Errorf("%s: this host has no address %s", what, at.addr.Addr())
	default:
		e.Err = fmt.Errorf("%s: %w", what, err)
	}
	return e
}

// portInUse is the error of a port that a program not of ours has.
type portInUse struct {
	error
	at socket
}

func (e *portInUse) Unwrap() error { return e.error }

// unprivilegedStart is the first port that needs no right.
func unprivilegedStart() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return n
		}
	}
	return 1024
}

// checkMounts looks for host folders that must be there, and makes none.
func checkMounts(svc *spec.Service) (faults []error) {
	for _, m := range svc.MachineMounts() {
		if m.Type == spec.MountSocket {
			if _, _, _, err := socketOwner(m.Source); err != nil {
				faults = append(faults, &spec.Error{Pos: m.Pos, Err: fmt.Errorf("service %q: %w", svc.Name, err), Hint: "is docker running?"})
			}
			continue
		}
		if m.Type != spec.MountBind {
			continue
		}
		info, err := os.Stat(m.Source)
		switch {
		case errors.Is(err, fs.ErrNotExist) && m.CreateHostPath:
		case errors.Is(err, fs.ErrNotExist):
			faults = append(faults, &spec.Error{
				Pos: m.Pos, Err: fmt.Errorf("service %q: bind source path does not exist: %s", svc.Name, m.Source),
				Hint: "create it, or say create_host_path: true",
			})
		case err != nil:
			faults = append(faults, &spec.Error{Pos: m.Pos, Err: fmt.Errorf("service %q: bind source: %w", svc.Name, err)})
		case !info.IsDir() && !info.Mode().IsRegular():
			faults = append(faults, &spec.Error{
				Pos: m.Pos, Err: fmt.Errorf("service %q: bind source %s is neither a file nor a directory", svc.Name, m.Source),
				Hint: "sockets and devices of the host cannot be seen from inside a machine",
			})
		}
	}
	return faults
}
