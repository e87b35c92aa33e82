//go:build linux

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stackvm/stack/guest/agent/cgroup"
	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// devices sets what nodes the container may use, and which it finds in /dev.
func (c *Container) devices() error {
	own, err := ours()
	if err != nil {
		return err
	}
	var rules []cgroup.DeviceRule
	for _, dev := range c.spec.Devices {
		node, err := deviceNode(dev)
		if err != nil {
			return err
		}
		if own[node.Dev] && node.Mode&unix.S_IFMT == unix.S_IFBLK {
			return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("device %s: it is the machine's own", dev.Source)}
		}
		c.nodes = append(c.nodes, node)
		access := dev.Permissions
		if access == "" {
			access = "rwm"
		}
		kind := byte('c')
		if node.Mode&unix.S_IFMT == unix.S_IFBLK {
			kind = 'b'
		}
		rules = append(rules, cgroup.DeviceRule{
			Allow: true, Type: kind, Access: access,
			Major: int64(unix.Major(node.Dev)), Minor: int64(unix.Minor(node.Dev)),
		})
	}
	if err := c.group.LimitIO(sortedDevices(own), c.spec.Limits.IO); err != nil {
		return err
	}
	if !c.spec.Privileged {
		more, err := c.deviceRules()
		if err != nil {
			return err
		}
		return c.group.SetDevices(slices.Concat(rules, more, cgroup.DefaultDevices), false)
	}
	// Everything, but for the agent's way to the host and what containers are
	// made of. A disk attached later than this is no container's either: only
	// whole classes are denied.
	everything, err := machineNodes(own)
	if err != nil {
		return err
	}
	c.nodes = append(everything, c.nodes...)
	return c.group.SetDevices(append(rules, privilegedRules()...), true)
}

// deviceRules are those the container asks for; what is the agent's and the
// machine's own they do not open.
func (c *Container) deviceRules() ([]cgroup.DeviceRule, error) {
	if len(c.spec.DeviceRules) == 0 {
		return nil, nil
	}
	rules := privilegedRules()
	for _, text := range c.spec.DeviceRules {
		r, err := cgroup.ParseDeviceRule(text)
		if err != nil {
			return nil, &wire.Error{Code: wire.CodeInvalid, Message: err.Error()}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func sortedDevices(own map[uint64]bool) []uint64 { return slices.Sorted(maps.Keys(own)) }

// privilegedRules deny what even a privileged container may not touch: ports and
// SCSI disks. Loop and device-mapper disks it makes itself are its own.
func privilegedRules() []cgroup.DeviceRule {
	rules := []cgroup.DeviceRule{{Type: 'b', Major: 8, Minor: -1, Access: "rwm"}}
	var st unix.Stat_t
	ports, _ := filepath.Glob("/dev/vport*")
	for _, p := range ports {
		if unix.Stat(p, &st) == nil {
			rules = append(rules, cgroup.DeviceRule{Type: 'c', Major: int64(unix.Major(st.Rdev)), Minor: -1, Access: "rwm"})
			break // one major number for all
		}
	}
	return rules
}

// ours are the device numbers of the machine's disks.
func ours() (map[uint64]bool, error) {
	devs, err := disk.Devices()
	if err != nil {
		return nil, err
	}
	own := make(map[uint64]bool, len(devs))
	for _, d := range devs {
		own[d] = true
	}
	return own, nil
}

// deviceNode describes a node of the machine's /dev as the container will see it.
func deviceNode(d wire.Device) (launch.Node, error) {
	fault := func(err error) (launch.Node, error) {
		return launch.Node{}, &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("device %s: %v", d.Source, err)}
	}
	source := filepath.Clean(d.Source)
	if !strings.HasPrefix(source, "/dev/") || strings.HasPrefix(filepath.Base(source), "vport") {
		return fault(errors.New("not a device that containers may have"))
	}
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return fault(err)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return fault(errors.New("not a device"))
	}
	path := d.Path
	if path == "" {
		path = source
	}
	return launch.Node{Path: path, Mode: st.Mode, Dev: st.Rdev, UID: int(st.Uid), GID: int(st.Gid)}, nil
}

// machineNodes lists the machine's /dev, without what is the agent's.
func machineNodes(own map[uint64]bool) ([]launch.Node, error) {
	var nodes []launch.Node
	err := filepath.WalkDir("/dev", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeDevice == 0 {
			return err
		}
		name := entry.Name()
		if strings.HasPrefix(name, "vport") || name == "ptmx" || name == "console" || name == "tty" {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil //nolint:nilerr // it has gone
		}
		if st.Mode&unix.S_IFMT == unix.S_IFBLK && own[st.Rdev] {
			return nil
		}
		nodes = append(nodes, launch.Node{Path: path, Mode: st.Mode, Dev: st.Rdev, UID: int(st.Uid), GID: int(st.Gid)})
		return nil
	})
	return nodes, err
}
