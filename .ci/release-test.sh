#!/usr/bin/env bash
# Shows that a release works where nothing else is: installs its Debian package in a fresh
# debootstrap with QEMU and no compiler, and runs examples/hello there as an unprivileged user,
# without a network but a registry on the loopback. Takes a few minutes, root, and debootstrap.
#
#   make release && .ci/release-test.sh [DEB]
#
#   RELEASE_ROOT=DIR   a debootstrap made before, which is changed; by default a new one,
#                      removed at the end
#   SUITE=bookworm
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "release-test: $*" >&2; exit 1; }
say() { echo "== $*" >&2; }
[ "$(id -u)" = 0 ] || die "only root can make another root directory"
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"

if [ $# = 1 ]; then debs=("$1"); else debs=(bin/release/*.deb); fi
[ "${#debs[@]}" = 1 ] && [ -f "${debs[0]}" ] || die "make release first, or name one package: found ${debs[*]}"
deb=${debs[0]}
work=$(mktemp -d /tmp/stack-release-test-XXXXXX)
root=${RELEASE_ROOT:-$work/root}
trap 'rm -rf --one-file-system "$work"' EXIT

if [ ! -e "$root/etc/debian_version" ]; then
	say "debootstrap"
	debootstrap --variant=minbase "${SUITE:-bookworm}" "$root" >"$work/log" 2>&1 || { tail "$work/log" >&2; die "debootstrap"; }
fi

# Runs a command in the root directory; mounts and processes end with it.
inside() {
	unshare --mount --propagation private --pid --fork --kill-child "$@" bash -euc '
		root=$1 script=$2
		mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/tmp" && mount --rbind /dev "$root/dev"
		if [ -n "${REGISTRY:-}" ]; then # without a network, so the registry is started in here
			ip link set lo up
			"$REGISTRY" serve --addr 127.0.0.1:5000 --ready-file "$root/tmp/ready" >/dev/null 2>&1 &
			for _ in $(seq 300); do [ -s "$root/tmp/ready" ] && break; sleep 0.1; done
			[ -s "$root/tmp/ready" ] || { echo "the registry did not start" >&2; exit 1; }
		fi
		chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb bash -euc "$script"' \
		bash "$root" "$script"
}

say "installing $(basename "$deb")"
install -m 0644 "$deb" "$root/stack.deb"
cp /etc/resolv.conf "$root/etc/"
script='
	apt-get update -q >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends /stack.deb >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
	for tool in cc gcc make go docker; do ! command -v $tool || { echo "$tool is there: this proves little" >&2; exit 1; }; done
	dpkg --verify stack
	dpkg-query -W stack qemu-system-x86
	id user >/dev/null 2>&1 || useradd --create-home --shell /bin/bash user'
inside

say "making the image of examples/hello"
CGO_ENABLED=0 go build -trimpath -o "$work/images" ./examples/images
"$work/images" build --source . busybox >/dev/null

say "examples/hello, offline, as an unprivileged user"
script='
	cat >/tmp/try <<-"END"
		set -euo pipefail
		cd; id; stack version
		mkdir -p .config/stack
		printf "registries:\n  docker.io:\n    mirrors: [\"http://127.0.0.1:5000\"]\n" >.config/stack/config.yaml
		cp -r /usr/share/doc/stack/examples/hello . && cd hello
		time stack up -d --wait
		stack ps
		exec 3<>"/dev/tcp/127.0.0.1/$(stack port hello 80 | sed s/.*://)"
		printf "GET / HTTP/1.0\r\n\r\n" >&3
		answer=$(cat <&3)
		echo "$answer"
		grep -q "^HTTP/1.. 200" <<<"$answer"
		stack exec -T hello uname -a
		stack down
		[ -z "$(stack ls -aq)" ]
		echo "it works"
	END
	ip route 2>/dev/null || true
	! { exec 4<>/dev/tcp/1.1.1.1/80; } 2>/dev/null || { echo "there is a network" >&2; exit 1; }
	runuser -l user -c "bash /tmp/try"
	ls -R /usr/share/man/man1 | grep -q "^stack-up.1.gz$"
	bash -c ". /usr/share/bash-completion/completions/stack && complete -p stack"'
REGISTRY=$work/images inside --net
