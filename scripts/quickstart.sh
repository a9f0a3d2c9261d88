#!/bin/bash
# The two-minute tour: a Debian image made from the distribution's packages,
# run as a container and as a VM, side by side.
#
#   scripts/quickstart.sh          "make quickstart" builds first
#   KEEP=1 scripts/quickstart.sh   leave the daemon and both instances running
#
# Everything lives in one directory, QUICKSTART_DIR (default
# /var/tmp/berth-quickstart). Images and kernels stay there, so that a second
# run is quick; daemon and instances go.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${QUICKSTART_DIR:-/var/tmp/berth-quickstart}
export BERTH_HOST=unix://$dir/run/berthd.sock
export PATH=$PWD/bin:$PATH
image=debian:12

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

if [ "$(id -u)" != 0 ]; then
	echo "quickstart: needs root for namespaces and networks: run it with sudo" >&2
	exit 1
fi
mkdir -p -m 0700 "$dir"

# Nothing keeps running, however this ends: the instances, then the daemon.
daemon=
clean_up() {
	local status=$?
	trap - EXIT INT TERM
	if [ -z "$daemon" ] || [ -n "${KEEP:-}" ]; then exit "$status"; fi
	berth rm -f -v box machine >/dev/null 2>&1 || true
	kill "$daemon" 2>/dev/null || true
	wait "$daemon" 2>/dev/null || true
	exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

say "Start a daemon on its embedded store, in $dir"
berthd --root "$dir/root" --run "$dir/run" --socket "$dir/run/berthd.sock" >"$dir/berthd.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
	berth version >/dev/null 2>&1 && break
	if ! kill -0 "$daemon" 2>/dev/null; then
		echo "quickstart: berthd ended; the end of $dir/berthd.log:" >&2
		tail -n 5 "$dir/berthd.log" >&2
		daemon=
		exit 1
	fi
	sleep 0.1
done
show berth version
berth rm -f -v box machine >/dev/null 2>&1 || true # of a run that was cut off

say "Make a standard Debian image and a guest kernel from the distribution's packages"
berth image inspect $image >/dev/null 2>&1 || show berth image bootstrap $image
berth image inspect kernel/debian-cloud >/dev/null 2>&1 || show berth kernel bootstrap cloud
show berth images

say "Run the image as a container, and as a VM"
command='echo "$(hostname): $(. /etc/os-release && echo $PRETTY_NAME), kernel $(uname -r)"; exec sleep infinity'
show berth run -d --name box      -h box     $image sh -c "$command"
show berth run -d --name machine  -h machine --vm $image sh -c "$command"
for name in box machine; do
	for _ in $(seq 300); do
		[ -z "$(berth logs $name)" ] || break
		sleep 0.1
	done
done

say "Side by side"
show berth ps
show berth logs box
show berth logs machine
show berth exec box cat /proc/1/comm
show berth exec machine cat /proc/1/comm
show berth stats --no-stream
show berth inspect --format '{{.Name}} is a {{.Spec.Kind}}: {{.Status.State}}, process {{.Status.PID}} of the host' box machine

if [ -n "${KEEP:-}" ]; then
	say "Both are still running. To use them:  export BERTH_HOST=$BERTH_HOST PATH=$PWD/bin:\$PATH"
else
	say "Done: the instances and the daemon are gone again. Images stay in $dir; KEEP=1 leaves everything running."
fi
