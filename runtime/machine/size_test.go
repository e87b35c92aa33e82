package machine

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestSize(t *testing.T) {
	for _, test := range []struct {
		name     string
		cpus     float64
		memLimit int64
		host     Host
		vcpus    int
		memory   int
	}{
		{"nothing asked", 0, 0, Host{8, 16384}, 4, 2048},
		{"small host", 0, 0, Host{2, 3000}, 2, 1024},
		{"tiny host", 0, 0, Host{1, 400}, 1, 256},
		{"fraction", 0.5, 0, Host{8, 16384}, 1, 2048},
		{"fraction above one", 1.5, 0, Host{8, 16384}, 2, 2048},
		{"more than the default", 6, 0, Host{8, 16384}, 6, 2048},
		{"more than there are", 16, 0, Host{8, 16384}, 8, 2048},
		{"no number", math.NaN(), 0, Host{8, 16384}, 4, 2048},
		{"small limit", 0, 16 << 20, Host{8, 16384}, 4, 256},
		{"limit of a class", 0, 256 << 20, Host{8, 16384}, 4, 512},
		{"limit of 512m", 0, 512 << 20, Host{8, 16384}, 4, 1024},
		{"limit above the classes", 0, 12 << 30, Host{8, 65536}, 4, 13 * 1024},
		{"limit above the host", 0, 1 << 60, Host{8, 16384}, 4, 17 * 1024},
	} {
		vcpus, memory := Size(test.cpus, test.memLimit, test.host)
		if vcpus != test.vcpus || memory != test.memory {
			t.Errorf("%s: Size = %d, %d MiB; want %d, %d MiB", test.name, vcpus, memory, test.vcpus, test.memory)
		}
	}
}

func TestSizeLeavesRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Host{rapid.IntRange(0, 512).Draw(t, "cpus"), rapid.IntRange(0, 1<<21).Draw(t, "memory")}
		cpus := rapid.Float64().Draw(t, "wanted")
		limit := rapid.Int64().Draw(t, "limit")
		vcpus, memory := Size(cpus, limit, h)
		if vcpus < 1 || vcpus > max(1, h.CPUs) {
			t.Errorf("%d vCPUs of %d", vcpus, h.CPUs)
		}
		if memory < minMemoryMiB {
			t.Errorf("%d MiB", memory)
		}
		if limit > 0 && limit>>20 <= int64(h.MemoryMiB) && int64(memory) < limit>>20+ownMemoryMiB {
			t.Errorf("%d MiB for a limit of %d bytes", memory, limit)
		}
	})
}
