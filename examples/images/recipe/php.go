package recipe

import (
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

const (
	phpVersion = "8.2"
	webUID     = 33 // www-data, of base-passwd
)

// phpExtensions are switched on, in this order: those that others need come first.
var phpExtensions = strings.Fields("mysqlnd pdo xml ctype curl dom exif fileinfo ftp gd iconv mbstring mysqli " +
	"pdo_mysql pgsql pdo_pgsql phar posix igbinary redis simplexml sockets sqlite3 pdo_sqlite tokenizer xmlreader xmlwriter zip")

// php is the web server with PHP in it, as the registry's php:8-apache: what is in
// /var/www/html is served on port 80, logs are on the standard streams.
var php = &Recipe{
	Name: "php", Tags: []string{"library/php:8.2-apache", "library/php:8-apache", "library/php:apache"},
	About: "apache and PHP 8.2 of Debian",
	Base:  "debian",
	Packages: []string{
		"apache2-bin", "libapache2-mod-php8.2", "php8.2-curl", "php8.2-gd", "php8.2-mbstring", "php8.2-mysql", "php8.2-pgsql", "php8.2-sqlite3",
		"php8.2-xml", "php8.2-zip", "php-redis", "ca-certificates", "curl",
	},
	Assumed:  slices.Concat(maintenance, []string{"php-common", "php8.2-opcache", "php8.2-readline", "sensible-utils"}),
	OnDemand: true,
	Config: v1.Config{
		Env:          []string{"PHP_VERSION=" + phpVersion, "APACHE_CONFDIR=/etc/apache2"},
		Entrypoint:   []string{"docker-php-entrypoint"},
		Cmd:          []string{"apache2-foreground"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		WorkingDir:   "/var/www/html",
		StopSignal:   "SIGWINCH",
	},
	Index:  true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, phpFiles},
}

func phpFiles(_ *Kitchen, t *rootfs.Tree) error {
	var ini strings.Builder
	for _, name := range phpExtensions {
		if t.Exists("/usr/lib/php/20220829/" + name + ".so") { // the others are built in
			ini.WriteString("extension=" + name + "\n")
		}
	}
	for _, kind := range []string{"apache2", "cli"} {
		t.File("/etc/php/"+phpVersion+"/"+kind+"/conf.d/10-extensions.ini", ini.String(), plain)
	}
	t.Symlink("/usr/local/bin/php", "/usr/bin/php"+phpVersion)
	t.File("/etc/apache2/apache2.conf", file("php/apache2.conf"), plain)
	t.Dir("/etc/apache2/conf-enabled", executable)
	t.File("/usr/local/bin/apache2-foreground", file("php/apache2-foreground"), executable)
	t.File("/usr/local/bin/docker-php-entrypoint", file("php/docker-php-entrypoint"), executable)
	t.Dir("/var/www/html", rootfs.Attr{Mode: 0o1777, UID: webUID, GID: webUID}) // any user may be told to run it
	t.Dir("/var/lib/php/sessions", rootfs.Attr{Mode: 0o1733})                   // php-common's
	// ca-certificates puts its certificates into one file when it is installed.
	var bundle strings.Builder
	for _, name := range t.Files("/usr/share/ca-certificates/mozilla") {
		bundle.WriteString(t.ReadFile(name))
	}
	t.File("/etc/ssl/certs/ca-certificates.crt", bundle.String(), plain)
	return t.Err()
}

// wordpress keeps the conventions of the registry's image of that name: an empty
// /var/www/html is filled at the first start, and WORDPRESS_ variables are its configuration.
var wordpress = &Recipe{
	Name: "wordpress", Tags: []string{"library/wordpress:6.1", "library/wordpress:6", "library/wordpress:latest", "library/wordpress:apache"},
	About:    "wordpress of Debian, on the php image",
	Base:     "php",
	Packages: []string{"wordpress", "wordpress-theme-twentytwentythree"},
	Assumed: slices.Concat(maintenance, []string{
		"apache2", "libapache2-mod-php", "php-gd", "php-mysql", "default-mysql-client",
	}),
	Skip:     []string{"/etc/wordpress", "/etc/apparmor.d"},
	OnDemand: true,
	Config: v1.Config{
		Entrypoint:   []string{"docker-entrypoint.sh"},
		Cmd:          []string{"apache2-foreground"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		Volumes:      map[string]struct{}{"/var/www/html": {}},
		StopSignal:   "SIGWINCH",
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.Remove("/usr/share/wordpress/.htaccess") // a link to a file that the server of a Debian host reads
		t.File("/usr/share/wordpress/wp-config.php", file("wordpress/wp-config.php"), plain)
		t.File("/usr/local/bin/docker-entrypoint.sh", file("wordpress/docker-entrypoint.sh"), executable)
		return t.Err()
	}},
}

// nextcloud stands in for an image whose software is not in Debian: a page that uses the
// database, the volume and redis as the environment of that image says.
var nextcloud = &Recipe{
	Name: "nextcloud", Tags: []string{"library/nextcloud:apache", "library/nextcloud:latest"},
	About:    "a stand-in: keeps files in the volume, their names in the database, locks in redis",
	Base:     "php",
	OnDemand: true,
	Config: v1.Config{
		Entrypoint:   []string{"docker-entrypoint.sh"},
		Cmd:          []string{"apache2-foreground"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		Volumes:      map[string]struct{}{"/var/www/html": {}},
		StopSignal:   "SIGWINCH",
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{func(_ *Kitchen, t *rootfs.Tree) error {
		t.File("/usr/src/nextcloud/index.php", file("nextcloud/index.php"), plain)
		t.Symlink("/usr/src/nextcloud/status.php", "index.php")
		t.File("/usr/local/bin/docker-entrypoint.sh", file("nextcloud/docker-entrypoint.sh"), executable)
		return t.Err()
	}},
}

// pgadmin stands in for another: Debian has not got pgadmin, but adminer, which does the same.
var pgadmin = &Recipe{
	Name: "pgadmin", Tags: []string{"dpage/pgadmin4:latest"},
	About:    "a stand-in: adminer of Debian on pgadmin's port, wanting its variables",
	Base:     "php",
	Packages: []string{"adminer"},
	Assumed:  slices.Concat(maintenance, []string{"libapache2-mod-php", "php", "php-mysql", "php-pgsql", "php-sqlite3"}),
	OnDemand: true,
	Config: v1.Config{
		Entrypoint:   []string{"/entrypoint.sh"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "443/tcp": {}},
		Volumes:      map[string]struct{}{"/var/lib/pgadmin": {}},
	},
	Index: true,
	Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, func(_ *Kitchen, t *rootfs.Tree) error {
		t.File("/var/www/html/index.php", "<?php include '/etc/adminer/conf.php';\n", plain)
		t.File("/entrypoint.sh", file("pgadmin/entrypoint.sh"), executable)
		return t.Err()
	}},
}
