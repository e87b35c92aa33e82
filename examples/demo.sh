#!/bin/bash
# Brings examples/three-tier up in micro-VMs, from a fresh Debian machine to the page that
# answers, and leaves it running; "down" ends what "up" left. Both can be run again at any time.
#
#   examples/demo.sh up|down
#
# As root it installs the Debian packages that are missing and runs everything else as a user
# of its own, because stack needs no root and the demo shows it. As another user it says which
# packages are missing.
#
#   DEMO_USER=stackdemo           that user
#   DEMO_REGISTRY=127.0.0.1:5000  where the registry of images listens
set -euo pipefail

demo_user=${DEMO_USER:-stackdemo}
registry=${DEMO_REGISTRY:-127.0.0.1:5000}

root=$(cd "$(dirname "$0")/.." && pwd)
marker='# Written by examples/demo.sh, removed by "examples/demo.sh down".'

say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }
die() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}

# Where things are. As root all of it belongs to the demo's user.
places() {
	if [ "$(id -u)" = 0 ]; then
		home=$(getent passwd "$demo_user" | cut -d: -f6)
		images_cache=/var/cache/stack-demo/images
	else
		home=$HOME
		images_cache=${XDG_CACHE_HOME:-$HOME/.cache}/stack/images
	fi
	state=$home/.local/state/stack-demo
	config=$home/.config/stack/config.yaml
	stack=$home/.local/bin/stack
	images=$state/images
	example=$home/three-tier
	if [ "$(id -u)" != 0 ]; then
		config=${XDG_CONFIG_HOME:-$HOME/.config}/stack/config.yaml
		stack=$root/bin/stack
		example=$root/examples/three-tier
	fi
}

# Runs a command as whoever the demo runs as, with nothing of root's environment.
as_user() {
	if [ "$(id -u)" != 0 ]; then
		"$@"
		return
	fi
	local env=("HOME=$home" "USER=$demo_user" "LOGNAME=$demo_user" "PATH=$home/.local/bin:/usr/local/bin:/usr/bin:/bin" "LANG=${LANG:-C.UTF-8}")
	local name
	for name in TERM STACK_ACCEL NO_COLOR; do
		if [ -n "${!name:-}" ]; then env+=("$name=${!name}"); fi
	done
	(cd / && exec runuser -u "$demo_user" -- env -i "${env[@]}" "$@")
}

# Runs a command in the example's directory.
in_example() { as_user sh -c 'cd "$1" && shift && exec "$@"' sh "$example" "$@"; }

make_user() {
	[ "$(id -u)" = 0 ] || return 0
	if ! getent passwd "$demo_user" >/dev/null; then
		useradd --create-home --shell /bin/bash "$demo_user"
	fi
	if getent group kvm >/dev/null; then usermod -aG kvm "$demo_user"; fi
}

# A file in use cannot be written, but it can be replaced.
put() {
	local from=$1 to=$2
	install -m 0755 "$from" "$to.new"
	mv -f "$to.new" "$to"
}

build() {
	make -C "$root" --no-print-directory build
	local guest
	guest=$(cd "$root" && go run ./guest/kernel/build) # its last line ends with the directory
	guest=${guest##*: }
	as_user mkdir -p "$state" "$(dirname "$config")"
	(cd "$root" && CGO_ENABLED=0 go build -trimpath -o bin/images ./examples/images)
	put "$root/bin/images" "$images"
	if [ "$(id -u)" = 0 ]; then
		as_user mkdir -p "$home/.local/bin" "$home/.local/lib/stack"
		put "$root/bin/stack" "$stack"
		local to=$home/.local/lib/stack/guest
		if ! diff -rq "$guest" "$to" >/dev/null 2>&1; then
			rm -rf "$to.new"
			cp -RL "$guest" "$to.new"
			chmod -R a+rX "$to.new"
			rm -rf "$to"
			mv "$to.new" "$to"
		fi
		# The user may not be able to read the checkout. What was edited in the copy stays.
		as_user mkdir -p "$example"
		(cd "$root/examples/three-tier" && tar -c --exclude=./app .) | as_user tar -x -C "$example" --skip-old-files --no-same-owner
	fi
}

build_images() {
	mkdir -p "$images_cache"
	(cd "$root" && bin/images build --cache "$images_cache" debian nginx redis postgres busybox three-tier-app)
	if [ "$(id -u)" = 0 ]; then chown -R "$demo_user:" "$(dirname "$images_cache")"; fi
}

# The pid of the registry this demo started, if it is still that.
registry_pid() {
	local pid exe
	pid=$(cat "$state/registry.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
	exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
	[ "${exe% (deleted)}" = "$images" ] && echo "$pid" # deleted: replaced by a later build
}

start_registry() {
	if registry_pid >/dev/null && curl -fsS -o /dev/null "http://$registry/v2/" 2>/dev/null; then
		return
	fi
	stop_registry
	rm -f "$state/registry.ready"
	# In a session of its own, so that it outlives this terminal; its log is a file.
	local pid n
	pid=$(as_user sh -c '
		setsid "$1" serve --cache "$2" --addr "$3" --ready-file "$4/registry.ready" >"$4/registry.log" 2>&1 </dev/null &
		echo $!' sh "$images" "$images_cache" "$registry" "$state")
	for n in $(seq 100); do
		if [ -s "$state/registry.ready" ]; then
			echo "$pid" >"$state/registry.pid"
			return
		fi
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	kill "$pid" 2>/dev/null || true
	die "the registry did not start: $(tail -n 3 "$state/registry.log"). Is $registry taken? DEMO_REGISTRY=127.0.0.1:PORT chooses another"
}

stop_registry() {
	local pid n
	pid=$(registry_pid) || return 0
	kill "$pid" 2>/dev/null || true
	for n in $(seq 100); do
		registry_pid >/dev/null || break
		sleep 0.1
	done
	rm -f "$state/registry.pid" "$state/registry.ready"
}

write_config() {
	if [ -e "$config" ] && ! grep -qxF "$marker" "$config"; then
		grep -qF "http://$registry" "$config" && return
		die "$config is yours, so it is left alone: add http://$registry to the mirrors of docker.io there, as examples/images/README.md shows"
	fi
	as_user sh -c 'cat >"$1.new" && mv "$1.new" "$1"' sh "$config" <<-END
		$marker
		registries:
		  docker.io:
		    mirrors: ["http://$registry"]
	END
}

up() {
	command -v go >/dev/null || die "no go in PATH: install Go 1.26 or newer, see https://go.dev/dl"
	say "packages"
	make -C "$root" --no-print-directory deps
	make_user
	places
	say "building stack and its guest"
	build
	say "making images"
	build_images
	say "serving images on http://$registry"
	start_registry
	write_config
	say "stack up -d --wait --pull always, in $example"
	in_example "$stack" up -d --wait --pull always # they may have been made anew
	local page
	page=http://$(in_example "$stack" port web 80)
	say "$page/api"
	curl -fsS --max-time 30 "$page/api"
	say "stack ps"
	in_example "$stack" ps
	if [ "$(id -u)" = 0 ]; then
		say "It runs as the user $demo_user. To look around: su - $demo_user, then: cd $example"
	fi
	say "Open $page/ - make demo-down ends it"
}

down() {
	if [ "$(id -u)" = 0 ] && ! getent passwd "$demo_user" >/dev/null; then
		echo "demo: nothing to end: there is no user $demo_user" >&2
		return
	fi
	places
	if [ -x "$stack" ] && [ -d "$example" ]; then
		say "stack down"
		in_example "$stack" down
	fi
	say "ending the registry"
	stop_registry
	if [ -e "$config" ] && grep -qxF "$marker" "$config"; then rm -f "$config"; fi
}

case "${1:-}" in
up | down) "$1" ;;
*) die "usage: examples/demo.sh up|down" ;;
esac
