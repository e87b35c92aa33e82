package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// extensionKey is the key of our own attributes.
const extensionKey = "x-stack"

// The keys of x-stack, of services and of volumes; docs/x-stack.schema.json
// describes them to editors.
var (
	serviceExtensions = []string{"host", "host_docker_socket", "kernel_args", "machine", "memory", "restart_unhealthy", "vcpus"}
	volumeExtensions  = []string{"size"}
)

// serviceExtension reads x-stack of a service:
//
//	x-stack:
//	  machine: NAME   services of one name share a machine
//	  host: deny      host.docker.internal leads nowhere
//	  host_docker_socket: true   binding docker.sock gives it the host's
//	  memory: 1g      of the machine
//	  vcpus: 2        of the machine
//	  kernel_args: [mitigations=off]   added to its kernel's command line
//	  restart_unhealthy: true   a replica whose probe fails is restarted
func (c *converter) serviceExtension(service string, ext map[string]any) Extension {
	var e Extension
	at := []string{"services", service, extensionKey}
	for key, v := range c.extensionMap(at, ext) {
		at := append(at, key)
		switch key {
		case "machine":
			s, ok := v.(string)
			if !ok || s == "" {
				c.fault(at, "", "service %q: x-stack.machine must be a name", service)
			}
			e.Machine = s
		case "host":
			if v != "deny" && v != "allow" {
				c.fault(at, "", `service %q: x-stack.host must be "deny" or "allow"`, service)
			}
			if v == "deny" {
				e.Host = "deny"
			}
		case "memory":
			n, err := units.RAMInBytes(fmt.Sprint(v))
			if err != nil || n < 64<<20 {
				c.fault(at, "write it like 1g", "service %q: x-stack.memory %q is no size of at least 64 MiB", service, fmt.Sprint(v))
			}
			e.MemoryMiB = int(n >> 20)
		case "vcpus":
			n, ok := v.(int)
			if !ok || n < 1 || n > 64 {
				c.fault(at, "", "service %q: x-stack.vcpus must be a number from 1 to 64", service)
			}
			e.VCPUs = n
		case "restart_unhealthy":
			e.RestartUnhealthy = c.yesOrNo(at, service, v)
		case "host_docker_socket":
			e.HostDockerSocket = c.yesOrNo(at, service, v)
		case "kernel_args":
			e.KernelArgs = c.kernelArgs(at, service, v)
		default:
			c.unknownExtension(at, key, serviceExtensions...)
		}
	}
	return e
}

func (c *converter) yesOrNo(at []string, service string, v any) bool {
	yes, ok := v.(bool)
	if !ok {
		c.fault(at, "", "service %q: x-stack.%s must be true or false", service, at[len(at)-1])
	}
	return yes
}

// kernelArg is one word of a kernel's command line, as it may be quoted to nobody.
var kernelArg = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.,:/=@+-]*$`)

// ownKernelArgs are what the machine itself is booted by.
var ownKernelArgs = []string{"console", "init", "initrd", "panic", "rdinit", "root"}

const maxKernelArgs = 32

func (c *converter) kernelArgs(at []string, service string, v any) []string {
	list, ok := v.([]any)
	if !ok || len(list) > maxKernelArgs {
		c.fault(at, "write it like [mitigations=off, quiet]", "service %q: x-stack.kernel_args must be a list of at most %d words", service, maxKernelArgs)
		return nil
	}
	var out []string
	for i, v := range list {
		at := append(slices.Clone(at), strconv.Itoa(i))
		arg, _ := v.(string)
		name, _, _ := strings.Cut(arg, "=")
		switch {
		case !kernelArg.MatchString(arg) || len(arg) > 128:
			c.fault(at, "", "service %q: x-stack.kernel_args: %q is no kernel parameter", service, fmt.Sprint(v))
		case slices.Contains(ownKernelArgs, name):
			c.fault(at, "", "service %q: x-stack.kernel_args: the machine sets %s itself", service, name)
		}
		out = append(out, arg)
	}
	return out
}

// volumeExtension reads x-stack of a volume: the size of its disk.
func (c *converter) volumeExtension(volume string, ext map[string]any) (size int64) {
	at := []string{"volumes", volume, extensionKey}
	for key, v := range c.extensionMap(at, ext) {
		if key != "size" {
			c.unknownExtension(append(at, key), key, volumeExtensions...)
			continue
		}
		size = c.volumeSize(append(at, key), volume, fmt.Sprint(v))
	}
	return size
}

func (c *converter) extensionMap(at []string, ext map[string]any) map[string]any {
	v, ok := ext[extensionKey]
	if !ok || v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		c.fault(at, "", "%s must be a mapping", strings.Join(at, "."))
	}
	return m
}

func (c *converter) unknownExtension(at []string, key string, known ...string) {
	c.fault(at, suggest(key, known), "%s: unknown key %q", strings.Join(at[:len(at)-1], "."), key)
}

// suggest is a hint that names the known word nearest to what was written.
func suggest(word string, known []string) string {
	best, at := "", 3 // more than two edits are another word
	for _, k := range known {
		if d := edits(word, k); d < at && d < len(k) {
			best, at = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(known) > 0 && len(known) <= 8 {
		return "one of " + strings.Join(known, ", ")
	}
	return ""
}

// edits is the number of letters to insert, delete, replace or swap between
// two words.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev2, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}
