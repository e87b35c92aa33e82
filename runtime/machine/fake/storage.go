package fake

import "github.com/stackvm/stack/guest/wire"

// serve notes what the machine is to serve; the disks must be there.
func (g *Guest) serve(s wire.Serve) (any, error) {
	err := g.setServed(s)
	if g.driver.OnServe != nil {
		g.driver.OnServe()
	}
	return nil, err
}

func (g *Guest) setServed(s wire.Serve) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	served := map[string]bool{}
	for _, v := range append([]wire.ServedVolume{{Serial: s.Records}}, s.Volumes...) {
		if _, ok := g.disks[v.Serial]; !ok {
			return fault(wire.CodeNotFound, "serving: no disk %q", v.Serial)
		}
		served[v.Serial] = true
	}
	for _, c := range s.Clients {
		for serial := range c.Volumes {
			if !served[serial] {
				return fault(wire.CodeInvalid, "client %s: volume %q is not served", c.ID, serial)
			}
		}
	}
	g.served = &s
	return nil
}

// Served is what the machine was last told to serve; nil: nothing.
func (g *Guest) Served() *wire.Serve {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.served
}
