#!/bin/sh
# Before nginx starts, runs what is in /docker-entrypoint.d, in the order of the names:
# *.sh that may be executed as programs, *.envsh in this shell.
set -e

if [ "$1" = nginx ] || [ "$1" = nginx-debug ]; then
	for step in /docker-entrypoint.d/*; do
		case "$step" in
		*.envsh) if [ -x "$step" ]; then . "$step"; fi ;;
		*.sh) if [ -x "$step" ]; then "$step"; else echo "$0: passing over $step, which is not executable" >&2; fi ;;
		esac
	done
fi

exec "$@"
