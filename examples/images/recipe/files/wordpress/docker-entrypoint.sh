#!/bin/bash
# Fills an empty /var/www/html with wordpress before the web server starts. What is there
# already is the user's.
set -euo pipefail

case "${1:-}" in
apache2* | php-fpm)
	if [ ! -e index.php ] && [ ! -e wp-includes/version.php ]; then
		echo "WordPress not found in $PWD - copying now..." >&2
		cp -rL /usr/share/wordpress/. . # some files are links to libraries outside
		mkdir -p wp-content/uploads
		if [ "$(id -u)" = 0 ]; then chown -R www-data:www-data .; fi
		echo "Complete! WordPress has been successfully copied to $PWD" >&2
	fi
	;;
esac
exec docker-php-entrypoint "$@"
