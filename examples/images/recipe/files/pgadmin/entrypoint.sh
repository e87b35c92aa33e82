#!/bin/bash
# Wants the account that the real image wants, and serves adminer on its port.
set -euo pipefail

if [ -z "${PGADMIN_DEFAULT_EMAIL:-}" ] || [ -z "${PGADMIN_DEFAULT_PASSWORD:-}${PGADMIN_DEFAULT_PASSWORD_FILE:-}" ]; then
	echo "set PGADMIN_DEFAULT_EMAIL, and PGADMIN_DEFAULT_PASSWORD or PGADMIN_DEFAULT_PASSWORD_FILE" >&2
	exit 1
fi
if [ -n "${PGADMIN_LISTEN_PORT:-}" ]; then
	sed -i "s/^Listen .*/Listen $PGADMIN_LISTEN_PORT/" /etc/apache2/apache2.conf
fi
exec docker-php-entrypoint apache2-foreground
