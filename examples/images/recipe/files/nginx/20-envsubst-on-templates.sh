#!/bin/sh
# Writes /etc/nginx/templates/NAME.template to /etc/nginx/conf.d/NAME with the variables of
# the environment put in. Names that are no variables of it stay: nginx has its own.
set -e

templates="${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}"
suffix="${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}"
output="${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}"

[ -d "$templates" ] || exit 0
if [ ! -w "$output" ]; then
	echo "$0: $templates exists, but $output cannot be written" >&2
	exit 0
fi
defined=$(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/${\1}/p' | grep -E "${NGINX_ENVSUBST_FILTER:-}" || true)
find "$templates" -follow -type f -name "*$suffix" | sort | while read -r template; do
	name="${template#"$templates"/}"
	target="$output/${name%"$suffix"}"
	mkdir -p "$(dirname "$target")"
	envsubst "$defined" <"$template" >"$target"
done
