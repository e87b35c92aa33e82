#!/bin/bash
# Whether the server takes connections: while an empty data directory is being prepared it
# does not listen. InnoDB is ready before it listens, so both questions have one answer.
set -euo pipefail

if [ $# = 0 ]; then set -- ''; fi
for test in "$@"; do
	case "$test" in
	--connect | --innodb_initialized) ;;
	*)
		echo "healthcheck.sh: this image knows --connect and --innodb_initialized, not \"$test\"" >&2
		exit 1
		;;
	esac
done
exec mariadb-admin --no-defaults --protocol=tcp --host=127.0.0.1 --silent ping
