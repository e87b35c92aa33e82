package recipe

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// fabricCA is Hyperledger Fabric's certificate authority itself, compiled from its Go module.
var fabricCA = &Recipe{
	Name: "fabric-ca", Tags: []string{"hyperledger/fabric-ca:1.5.7", "hyperledger/fabric-ca:1.5", "hyperledger/fabric-ca:latest"},
	About:    "fabric-ca-server, from the Go module proxy",
	Base:     "debian",
	OnDemand: true,
	Programs: []Program{{Module: "github.com/hyperledger/fabric-ca@v1.5.7", Dir: "cmd/fabric-ca-server", Path: "/usr/local/bin/fabric-ca-server"}},
	Config: v1.Config{
		Env:          []string{"FABRIC_CA_HOME=/etc/hyperledger/fabric-ca-server"},
		Cmd:          []string{"fabric-ca-server", "start", "-b", "admin:adminpw"},
		ExposedPorts: map[string]struct{}{"7054/tcp": {}},
		Volumes:      map[string]struct{}{"/etc/hyperledger/fabric-ca-server": {}, "/etc/hyperledger/fabric-ca-client": {}},
	},
	Layers: []func(*Kitchen, *rootfs.Tree) error{install},
}

// bench is what Frappe's developers open a shell in. It is a stand-in with the tools of that
// image that Debian has: what the container is for, the user clones into the bind mount.
var bench = &Recipe{
	Name: "bench", Tags: []string{"frappe/bench:latest"},
	About:    "a stand-in for Frappe's development image: Python, node, clients of its databases",
	Base:     "python",
	Packages: []string{"nodejs", "mariadb-client", "redis-tools", "curl", "procps"},
	Assumed:  slices.Concat(maintenance, certificates, []string{"libdbd-mariadb-perl", "libdbi-perl", "libconfig-inifiles-perl", "mysql-common"}),
	Skip:     []string{"/usr/share/bash-completion"},
	OnDemand: true,
	Config:   v1.Config{User: "frappe", WorkingDir: "/home/frappe", ExposedPorts: map[string]struct{}{"8000/tcp": {}, "9000/tcp": {}}},
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.User("frappe", 1000, 1000, "/home/frappe", "/bin/bash")
		t.Dir("/home/frappe", rootfs.Attr{Mode: 0o755, UID: 1000, GID: 1000})
		return t.Err()
	}},
}
