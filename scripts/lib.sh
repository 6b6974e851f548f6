# shellcheck shell=bash
# What the scripts that build and start servers share.  Source it with the current directory at the top
# of the checkout.
#
# Two users matter.  The checkout is built and written by its owner, so that a run as root leaves nothing
# behind that a later plain build could not replace.  Servers run as somebody who is not root (initdb
# refuses root): yourself, or postgres if you are root.  That user may not be able to read the checkout at
# all, so servers live in a folder under /tmp with a copy of all they need.

say()
{
	printf '%s\n' "$*"
}

die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

am_root()
{
	[ "$EUID" -eq 0 ]
}

# as_owner CMD...: as the user to whom the checkout belongs.  The variables of an outer make would make
# an inner one look for a jobserver that it has no way to reach.
as_owner()
{
	local uid gid

	uid=$(stat -c %u .)
	gid=$(stat -c %g .)
	if am_root && [ "$uid" -ne 0 ]; then
		setpriv --reuid="$uid" --regid="$gid" --clear-groups env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL "$@"
	else
		env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL "$@"
	fi
}

# as_runner CMD...: as the user who runs servers, in RUN_DIR (the checkout may be closed to that user), with
# RUNNER_ENV and nothing of the caller's environment.  It looks up the path only once: it is called often, and bash 5.2 can spin
# for ever in nested command substitutions that Ctrl-C meets.
as_runner()
{
	local -a drop=()

	[ -n "$runner_path" ] || runner_path=$(pg_bindir):/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
	if am_root; then
		drop=(setpriv --reuid=postgres --regid=postgres --init-groups)
	fi
	"${drop[@]}" env -i -C "$RUN_DIR" PATH="$runner_path" LANG=C.UTF-8 \
		HOME="$RUN_DIR" "${RUNNER_ENV[@]}" "$@"
}
RUNNER_ENV=()
runner_path=

# The pg_config of the PostgreSQL that is tested: the caller's choice, or the one that scripts/deps installs.
pg_config()
{
	local debian=/usr/lib/postgresql/15/bin/pg_config

	if [ -n "${PG_CONFIG:-}" ]; then
		"$PG_CONFIG" "$@"
	elif [ -x "$debian" ]; then
		"$debian" "$@"
	else
		command pg_config "$@"
	fi
}

pg_bindir()
{
	pg_config --bindir
}

# make_run_dir NAME: RUN_DIR, a new folder under /tmp that belongs to the user who runs servers.
# Under /tmp because a socket's path must be short, and closed to others because a server in it trusts all.
make_run_dir()
{
	RUN_DIR=$(mktemp -d "/tmp/$1.XXXXXX")
	if am_root; then
		chown postgres:postgres "$RUN_DIR"
	fi
}

# build FLAVOUR STAGE: build it in the checkout and install it below the folder STAGE.
build()
{
	local flavour=$1 stage=$2 packed

	as_owner mkdir -p build
	# Two runs in one checkout take turns.  The install goes through a tar file in build/, as the owner of
	# the checkout cannot write to STAGE and the owner of STAGE may not be able to read the checkout.
	packed=build/$flavour.tar
	(
		flock 9
		as_owner make -s -j"$(nproc)" FLAVOUR="$flavour" PG_CONFIG="$(pg_config --bindir)/pg_config" all
		as_owner rm -rf "build/$flavour-stage"
		as_owner make -s FLAVOUR="$flavour" PG_CONFIG="$(pg_config --bindir)/pg_config" \
			DESTDIR="$PWD/build/$flavour-stage" install >/dev/null
		as_owner tar -C "build/$flavour-stage" -cf "$packed" .
		mkdir -p "$stage"
		tar -C "$stage" --no-same-owner -xf "$packed"
		as_owner rm -rf "$packed" "build/$flavour-stage"
	) 9<build
	chmod -R a+rX "$stage"
}

# stage_settings STAGE: the lines with which a server finds the extension there and not in the system.
stage_settings()
{
	local stage=$1 major

	major=$(pg_config --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
	if [ "$major" -ge 18 ]; then
		echo "extension_control_path = '$stage$(pg_config --sharedir):\$system'"
	else
		echo "extension_destdir = '$stage'"
	fi
	echo "dynamic_library_path = '$stage$(pg_config --pkglibdir):\$libdir'"
}

# is_running PID: what has ended does not.  In a container nobody may collect what is left of it.
is_running()
{
	local state

	state=$(sed -E 's/.*\) (.).*/\1/' "/proc/$1/stat" 2>/dev/null) && [ "$state" != Z ]
}

# wait_gone PID: until it runs no more.
wait_gone()
{
	while is_running "$1"; do
		sleep 0.05
	done
}

# stop_servers: stop whatever server still runs below RUN_DIR; it was started by us, whoever started it.
stop_servers()
{
	local pidfile pid

	while read -r pidfile; do
		pid=$(head -n 1 "$pidfile" 2>/dev/null || true)
		case $pid in
			'' | *[!0-9]*) continue ;;
		esac
		[ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$pidfile")" ] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		wait_gone "$pid"
	done < <(find "$RUN_DIR" -name postmaster.pid 2>/dev/null)
}

remove_run_dir()
{
	[ -n "${RUN_DIR:-}" ] || return 0
	stop_servers
	rm -rf "$RUN_DIR"
}
