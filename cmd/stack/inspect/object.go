package inspect

import (
	"net/netip"
	"slices"
	"strings"

	dockerimage "github.com/moby/docker-image-spec/specs-go/v1"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	volumetypes "github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/image"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/runtime/volume"
)

// Network is a network with the running ones of replicas that are on it.
func Network(n *state.Network, replicas []*state.Replica) network.Inspect {
	out := network.Inspect{
		Network: network.Network{
			Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: "bridge", Internal: n.Internal,
			IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}}, Options: map[string]string{}, Labels: labels(n.Labels),
		},
		Containers: map[string]network.EndpointResource{},
	}
	for _, s := range n.Addresses.Subnets {
		out.EnableIPv4 = out.EnableIPv4 || s.Prefix.Addr().Is4()
		out.EnableIPv6 = out.EnableIPv6 || s.Prefix.Addr().Is6()
		out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{Subnet: s.Prefix, IPRange: s.Range, Gateway: s.Gateway, AuxAddress: s.Aux})
	}
	for _, r := range replicas {
		if r.Status != planner.StatusRunning && r.Status != planner.StatusPaused {
			continue
		}
		for _, e := range r.Endpoints {
			if e.NetworkID != n.ID {
				continue
			}
			at := network.EndpointResource{Name: r.Name}
			_ = at.MacAddress.UnmarshalText([]byte(e.MAC)) // what cannot be read is not shown
			at.IPv4Address, at.IPv6Address = addresses(e.Addrs)
			out.Containers[r.ID] = at
		}
	}
	return out
}

func addresses(all []netip.Prefix) (four, six netip.Prefix) {
	for _, a := range all {
		if a.Addr().Is4() {
			four = a
		} else {
			six = a
		}
	}
	return four, six
}

// Volume is a named volume; its mountpoint is the disk.
func Volume(v *volume.Volume) volumetypes.Volume {
	return volumetypes.Volume{
		CreatedAt: stamp(v.Created), Driver: "local", Labels: labels(v.Labels), Mountpoint: v.Disk, Name: v.Name, Scope: "local", Options: v.Options,
	}
}

// Image is an image of the store.
func Image(i *image.Image) imagetypes.InspectResponse {
	c := i.Config
	config := &dockerimage.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, Labels: c.Labels,
			StopSignal: c.StopSignal, ExposedPorts: set(c.ExposedPorts), Volumes: set(c.Volumes),
		},
		DockerOCIImageConfigExt: dockerimage.DockerOCIImageConfigExt{Shell: c.Shell},
	}
	if h := c.Healthcheck; h != nil {
		config.Healthcheck = &dockerimage.HealthcheckConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	out := imagetypes.InspectResponse{
		ID: imageID(i.ID), RepoTags: i.Tags, RepoDigests: []string{}, Config: config,
		Architecture: i.Platform.Arch, Variant: i.Platform.Variant, Os: i.Platform.OS, Size: i.Size,
		RootFS: imagetypes.RootFS{Type: "layers"}, Metadata: imagetypes.Metadata{LastTagTime: i.Pulled},
	}
	if out.RepoTags == nil {
		out.RepoTags = []string{}
	}
	if !i.Created.IsZero() {
		out.Created = stamp(i.Created)
	}
	for _, tag := range i.Tags {
		name := tag
		if colon := strings.LastIndex(tag, ":"); colon > strings.LastIndex(tag, "/") { // else a port's
			name = tag[:colon]
		}
		if d := name + "@" + i.Digest; !slices.Contains(out.RepoDigests, d) {
			out.RepoDigests = append(out.RepoDigests, d)
		}
	}
	for _, l := range i.Layers {
		out.RootFS.Layers = append(out.RootFS.Layers, l.DiffID)
	}
	return out
}

func set(names []string) map[string]struct{} {
	if len(names) == 0 {
		return nil
	}
	out := map[string]struct{}{}
	for _, n := range names {
		out[n] = struct{}{}
	}
	return out
}

func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
