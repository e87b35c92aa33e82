package recipe

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

const nginxUID = 101 // what the registry's image of that name uses

// nginx keeps the conventions of the registry's image of that name: configuration in
// /etc/nginx/conf.d, templates in /etc/nginx/templates, scripts in /docker-entrypoint.d,
// logs on the standard streams.
var nginx = &Recipe{
	Name: "nginx", Tags: []string{"library/nginx:1.22", "library/nginx:1.22.1", "library/nginx:1", "library/nginx:stable", "library/nginx:latest"},
	About:    "nginx-light of Debian",
	Base:     "debian",
	Packages: []string{"nginx-light", "gettext-base", "curl"},
	Assumed:  slices.Concat(maintenance, []string{"iproute2"}),
	Skip:     []string{"/usr/share/vim", "/usr/share/java", "/usr/share/maven-repo", "/usr/share/apport", "/etc/ufw", "/etc/logrotate.d", "/etc/default", "/etc/nginx/sites-available", "/etc/nginx/sites-enabled"},
	Config: v1.Config{
		Env:          []string{"NGINX_VERSION=1.22"},
		Entrypoint:   []string{"/docker-entrypoint.sh"},
		Cmd:          []string{"nginx", "-g", "daemon off;"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		StopSignal:   "SIGQUIT",
	},
	Index:  true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, nginxFiles},
}

func nginxFiles(_ *Kitchen, t *rootfs.Tree) error {
	t.User("nginx", nginxUID, nginxUID, "/nonexistent", "/bin/false")
	t.File("/etc/nginx/nginx.conf", file("nginx/nginx.conf"), plain)
	t.File("/etc/nginx/conf.d/default.conf", file("nginx/default.conf"), plain)
	t.File("/usr/share/nginx/html/50x.html", file("nginx/50x.html"), plain)
	t.File("/docker-entrypoint.sh", file("nginx/docker-entrypoint.sh"), executable)
	t.File("/docker-entrypoint.d/20-envsubst-on-templates.sh", file("nginx/20-envsubst-on-templates.sh"), executable)
	t.Symlink("/etc/nginx/modules", "/usr/lib/nginx/modules")
	t.Symlink("/var/log/nginx/access.log", "/dev/stdout")
	t.Symlink("/var/log/nginx/error.log", "/dev/stderr")
	t.Dir("/var/cache/nginx", rootfs.Attr{Mode: 0o755, UID: nginxUID, GID: nginxUID})
	t.Dir("/var/lib/nginx", executable)
	return t.Err()
}
