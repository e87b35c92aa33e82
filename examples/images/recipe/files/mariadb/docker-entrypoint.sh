#!/bin/bash
# Runs the server as the user mysql. An empty data directory is prepared first: a root
# password, a database and a user, as MARIADB_ or MYSQL_ variables say (those with _FILE
# name a file), then the scripts of /docker-entrypoint-initdb.d.
set -euo pipefail

case "${1:-}" in -*) set -- mariadbd "$@" ;; esac
case "${1:-}" in mariadbd | mysqld) ;; *) exec "$@" ;; esac

data=/var/lib/mysql
if [ "$(id -u)" = 0 ]; then
	find "$data" /run/mysqld ! -user mysql -exec chown mysql:mysql '{}' +
	exec setpriv --reuid=mysql --regid=mysql --init-groups "$0" "$@"
fi

value() {
	local name file
	for name in "MARIADB_$1" "MYSQL_$1"; do
		file="${name}_FILE"
		if [ -n "${!name:-}" ]; then printf %s "${!name}" && return; fi
		if [ -n "${!file:-}" ]; then cat "${!file}" && return; fi
	done
}

quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/[\\\\']/\\\\&/g")"; }

if [ ! -d "$data/mysql" ]; then
	root=$(value ROOT_PASSWORD) database=$(value DATABASE) user=$(value USER) password=$(value PASSWORD)
	if [ -z "$root" ] && [ -n "$(value RANDOM_ROOT_PASSWORD)" ]; then
		root=$(head -c 18 /dev/urandom | base64)
		echo "the root password is $root"
	fi
	if [ -z "$root" ] && [ -z "$(value ALLOW_EMPTY_ROOT_PASSWORD)$(value ALLOW_EMPTY_PASSWORD)" ]; then
		echo "no root password: set MARIADB_ROOT_PASSWORD, MARIADB_RANDOM_ROOT_PASSWORD or MARIADB_ALLOW_EMPTY_ROOT_PASSWORD" >&2
		exit 1
	fi
	mariadb-install-db --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null

	socket=/run/mysqld/prepare.sock
	"$@" --skip-networking --socket="$socket" &
	server=$!
	client() { mariadb --protocol=socket --socket="$socket" --user=root "$@"; }
	until client --execute='SELECT 1' >/dev/null 2>&1; do
		kill -0 "$server" || exit 1
		sleep 0.2
	done
	{
		if [ -n "$database" ]; then echo "CREATE DATABASE IF NOT EXISTS \`${database//\`/\`\`}\`;"; fi
		if [ -n "$user" ]; then
			echo "CREATE USER $(quoted "$user")@'%' IDENTIFIED BY $(quoted "$password");"
			if [ -n "$database" ]; then echo "GRANT ALL ON \`${database//\`/\`\`}\`.* TO $(quoted "$user")@'%';"; fi
		fi
	} | client
	shopt -s nullglob
	for script in /docker-entrypoint-initdb.d/*; do
		case "$script" in
		*.sql) client ${database:+"$database"} <"$script" ;;
		*.sql.gz) gzip -dc "$script" | client ${database:+"$database"} ;;
		*.sh) . "$script" ;;
		esac
	done
	client <<-SQL
		CREATE USER 'root'@'%' IDENTIFIED BY $(quoted "$root");
		GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;
		ALTER USER 'root'@'localhost' IDENTIFIED BY $(quoted "$root");
	SQL
	kill "$server"
	wait "$server"
fi

exec "$@"
