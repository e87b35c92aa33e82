#!/bin/bash
# Fills an empty /var/www/html before the web server starts, as the real image does.
set -euo pipefail

if [ ! -e index.php ]; then
	cp -r /usr/src/nextcloud/. .
	mkdir -p data
	if [ "$(id -u)" = 0 ]; then chown -R www-data:www-data .; fi
	echo "a new installation: the stand-in for Nextcloud was copied to $PWD"
fi
exec docker-php-entrypoint "$@"
