#!/bin/sh
# Runs redis-server as the user redis, owner of its data, with the network as the boundary:
# what Debian guards by protected mode, a container guards by not publishing the port.
set -e

# Options or a configuration file alone mean the server.
case "${1:-}" in
-* | *.conf) set -- redis-server "$@" ;;
esac

if [ "${1:-}" = redis-server ]; then
	config=
	case "${2:-}" in *.conf) config="$2" ;; esac
	case " $* " in
	*" --protected-mode "*) ;;
	*) if [ -z "$config" ] || ! grep -qiE '^[[:space:]]*protected-mode[[:space:]]' "$config"; then set -- "$@" --protected-mode no; fi ;;
	esac
	if [ "$(id -u)" = 0 ]; then
		find . ! -user redis -exec chown redis:redis '{}' +
		exec setpriv --reuid=redis --regid=redis --init-groups "$@"
	fi
fi

exec "$@"
