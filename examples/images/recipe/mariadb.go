package recipe

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

const mariadbUID = 999

// mariadb keeps the conventions of the registry's image of that name: an empty data
// directory is prepared by what the environment says, and by /docker-entrypoint-initdb.d.
var mariadb = &Recipe{
	Name: "mariadb", Tags: []string{
		"library/mariadb:10.11", "library/mariadb:10", "library/mariadb:latest", "library/mariadb:lts", "library/mariadb:10-focal",
		"library/mariadb:10.5", "library/mariadb:10.6", "library/mariadb:10.6.4-focal", "library/mariadb:10.9", "library/mariadb:11.8",
	},
	About:    "mariadb-server of Debian, whatever 10.x is asked for",
	Base:     "debian",
	Packages: []string{"mariadb-server-core", "mariadb-client", "mariadb-common"},
	Assumed:  slices.Concat(maintenance, []string{"libdbd-mariadb-perl", "libdbi-perl", "libconfig-inifiles-perl", "mysql-common"}),
	Skip:     []string{"/usr/share/mysql/mysql-test", "/etc/init.d", "/usr/share/bash-completion"},
	OnDemand: true,
	Config: v1.Config{
		Entrypoint:   []string{"docker-entrypoint.sh"},
		Cmd:          []string{"mariadbd"},
		ExposedPorts: map[string]struct{}{"3306/tcp": {}},
		Volumes:      map[string]struct{}{"/var/lib/mysql": {}},
	},
	Index:  true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, mariadbFiles},
}

func mariadbFiles(_ *Kitchen, t *rootfs.Tree) error {
	t.User("mysql", mariadbUID, mariadbUID, "/var/lib/mysql", "/bin/false")
	owned := rootfs.Attr{Mode: 0o755, UID: mariadbUID, GID: mariadbUID}
	t.Dir("/var/lib/mysql", owned)
	t.Dir("/run/mysqld", owned)
	t.Dir("/docker-entrypoint-initdb.d", executable)
	t.File("/etc/mysql/my.cnf", "[client-server]\nsocket=/run/mysqld/mysqld.sock\n[mariadbd]\nskip-name-resolve\n!includedir /etc/mysql/conf.d/\n", plain)
	t.Dir("/etc/mysql/conf.d", executable)
	t.Symlink("/usr/local/bin/mysqld", "/usr/sbin/mariadbd") // as commands of compose files call it
	t.File("/usr/local/bin/docker-entrypoint.sh", file("mariadb/docker-entrypoint.sh"), executable)
	t.File("/usr/local/bin/healthcheck.sh", file("mariadb/healthcheck.sh"), executable)
	return t.Err()
}
