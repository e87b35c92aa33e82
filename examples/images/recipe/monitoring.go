package recipe

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// nobody is Debian's user of that name and the one that Prometheus' images run as.
const nobody = 65534

// prometheus, alertmanager and nodeExporter keep the conventions of the project's own
// images: the program as entrypoint, data below the working directory, the user nobody.
var prometheus = &Recipe{
	Name: "prometheus", Tags: []string{"prom/prometheus:latest", "prom/prometheus:v2.42.0"},
	About:    "prometheus of Debian, without its newer page",
	Base:     "debian",
	Packages: []string{"prometheus"},
	Assumed:  slices.Concat(maintenance, scrapers),
	Skip:     []string{"/etc/default", "/etc/logrotate.d", "/usr/bin/promtool"},
	OnDemand: true,
	Config: v1.Config{
		User:         "nobody",
		Entrypoint:   []string{"/bin/prometheus"},
		Cmd:          []string{"--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", "--web.console.libraries=/usr/share/prometheus/console_libraries", "--web.console.templates=/usr/share/prometheus/consoles"},
		ExposedPorts: map[string]struct{}{"9090/tcp": {}},
		Volumes:      map[string]struct{}{"/prometheus": {}},
		WorkingDir:   "/prometheus",
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.Dir("/prometheus", rootfs.Attr{Mode: 0o775, UID: nobody, GID: nobody})
		return t.Err()
	}},
}

var alertmanager = &Recipe{
	Name: "alertmanager", Tags: []string{"prom/alertmanager:latest", "prom/alertmanager:v0.25.0"},
	About:    "prometheus-alertmanager of Debian, without a page",
	Base:     "debian",
	Packages: []string{"prometheus-alertmanager"},
	Assumed:  maintenance,
	Skip:     []string{"/etc/default", "/etc/logrotate.d", "/usr/bin/amtool"},
	OnDemand: true,
	Config: v1.Config{
		User:         "nobody",
		Entrypoint:   []string{"/bin/alertmanager"},
		Cmd:          []string{"--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"},
		ExposedPorts: map[string]struct{}{"9093/tcp": {}},
		Volumes:      map[string]struct{}{"/alertmanager": {}},
		WorkingDir:   "/alertmanager",
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.Symlink("/usr/bin/alertmanager", "prometheus-alertmanager")
		t.Dir("/alertmanager", rootfs.Attr{Mode: 0o755, UID: nobody, GID: nobody})
		return t.Err()
	}},
}

var nodeExporter = &Recipe{
	Name: "node-exporter", Tags: []string{"prometheus/node-exporter:latest", "prometheus/node-exporter:v1.1.2", "prom/node-exporter:latest"},
	About:    "prometheus-node-exporter of Debian, as quay.io has it",
	Base:     "debian",
	Packages: []string{"prometheus-node-exporter"},
	Assumed:  slices.Concat(maintenance, scrapers),
	Skip:     []string{"/etc/default", "/etc/logrotate.d"},
	OnDemand: true,
	Config: v1.Config{
		User:         "nobody",
		Entrypoint:   []string{"/bin/node_exporter"},
		ExposedPorts: map[string]struct{}{"9100/tcp": {}},
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.Symlink("/usr/bin/node_exporter", "prometheus-node-exporter")
		return t.Err()
	}},
}

// scrapers are what Debian's packages bring to be scraped or to show what was.
var scrapers = []string{"prometheus-node-exporter-collectors", "libjs-bootstrap4", "libjs-eonasdan-bootstrap-datetimepicker", "libjs-jquery", "libjs-jquery-hotkeys", "libjs-moment", "libjs-moment-timezone", "libjs-mustache", "libjs-popper.js", "libjs-rickshaw", "fonts-glyphicons-halflings"}

// grafana is a stand-in, because Grafana is in no Debian package: a page and an API of data
// sources and dashboards for one administrator, kept in /var/lib/grafana, and queries passed
// on to the data source. It takes of the real one's settings what compose files set.
var grafana = &Recipe{
	Name: "grafana", Tags: []string{"grafana/grafana:latest"},
	About:    "a stand-in for Grafana: its health, login, data sources, dashboards and queries",
	Base:     "python",
	Packages: []string{"python3-yaml"},
	Assumed:  maintenance,
	OnDemand: true,
	Config: v1.Config{
		User:         "472",
		Entrypoint:   []string{"/run.sh"},
		ExposedPorts: map[string]struct{}{"3000/tcp": {}},
		WorkingDir:   "/usr/share/grafana",
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.User("grafana", 472, 472, "/usr/share/grafana", "/bin/false")
		t.Dir("/usr/share/grafana", executable)
		t.Dir("/var/lib/grafana", rootfs.Attr{Mode: 0o777, UID: 472})
		t.File("/run.sh", file("monitoring/grafana.py"), executable)
		return t.Err()
	}},
}

// tinyTools is a shell and what scripts that set up other services call.
var tinyTools = &Recipe{
	Name: "tiny-tools", Tags: []string{"giantswarm/tiny-tools:latest"},
	About:    "a shell, curl and jq of Debian",
	Base:     "debian",
	Packages: []string{"curl", "jq"},
	Assumed:  slices.Concat(maintenance, certificates),
	OnDemand: true,
	Layers:   []func(*Kitchen, *rootfs.Tree) error{unpack},
}
