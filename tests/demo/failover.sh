#!/usr/bin/env bash
# If this fails, make demo does not show what it says, or leaves servers, memory or folders behind when it ends: by
# itself, by Ctrl-C, or because something in it breaks.
#
# It runs in the checkout, as whoever calls make, and prints TAP.
set -euo pipefail
set -m # every demo is a process group, as in a terminal, so that Ctrl-C reaches all of it
unset KEEP RATES_URL

# When a line with these words is printed | what is done to the demo | its exit status, a pattern
runs=(
	'Stopped and removed|nothing|0'
	'A streaming standby|press_ctrl_c|130'
	'its [0-9]+ processes ended by themselves|terminate|143'
	'What is put on the primary|kill_primary|[1-9]*'
)

# Of the first run, in this order.
shown=(
	'registry.convert\(100'
	'110\.5700$'
	'A streaming standby'
	'walreceiver +\| streaming'
	't +\| standby$'
	'on the standby$'
	'registry.convert\(100'
	'123\.4500$'
	'on the primary$'
	"put\\('limits', 'max_order', 25000\\)"
	'on the standby$'
	'^ +25000$'
	'sockets that the primary and its [1-9][0-9]* processes listen on: 0$'
	'sockets that the standby and its [1-9][0-9]* processes listen on: 0$'
	'nginx, for comparison: 1$'
	'failures +\| [1-9]'
	'kill -9 [0-9]+'
	'pg_promote\(\)'
	'^ f +\| 123\.4500 .* 25000$'
	'The source is back'
	'1\.1111 .* 111\.1100$'
	"put\\('limits', 'max_order', 30000\\)"
	'^ +30000$'
)

number=0
demo=
output=$(mktemp -d "${TMPDIR:-/tmp}/pgr-demo-test.XXXXXX")
mkfifo "$output/pipe"
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Our own Ctrl-C does not reach the demo, as that is a process group of its own.
cleanup()
{
	if [ -n "$demo" ]; then
		kill -TERM "$demo" 2>/dev/null || true
		wait "$demo" || true
	fi
	rm -rf "$output"
}

# check NAME CMD...: one test; what the command prints says why it failed.
check()
{
	local name=$1 why

	shift
	number=$((number + 1))
	if why=$("$@"); then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		printf '%s\n' "$why" | sed 's/^/# /'
	fi
}

nothing()
{
	:
}

# Again at each line that still comes, as somebody would who sees it go on: bash forgets a Ctrl-C that comes just as a
# command ends.  And cleaning up is not to be interrupted.
press_ctrl_c()
{
	kill -INT -- "-$demo" 2>/dev/null || true
	return 1
}

terminate()
{
	kill -TERM "$demo"
}

kill_primary()
{
	kill -KILL "$(head -n 1 "$folder/primary/postmaster.pid")"
}

# note_segments: the pair of creator and id of each server's shared memory, while the file that has them is there.
note_segments()
{
	local file

	for file in "$folder"/*/postmaster.pid; do
		[ ! -s "$file" ] || awk 'NR == 1 { creator = $1 } NR == 7 { print $2, creator }' "$file" >>"$output/segments"
	done
}

# run_demo WORDS ACTION: its output in a file, its folder in a variable, its exit status as the status.  An action
# that fails is repeated at the next line.
run_demo()
{
	local line state=early status=0

	folder=
	: >"$output/segments"
	scripts/demo >"$output/pipe" 2>&1 &
	demo=$!
	while IFS= read -r line; do
		printf '%s\n' "$line"
		[[ $line =~ \ (/tmp/pgr-demo\.[A-Za-z0-9]+)$ ]] && folder=${BASH_REMATCH[1]}
		[[ $line =~ (A streaming standby|Nothing of it listens) ]] && note_segments
		if [ $state = early ] && [[ $line =~ $1 ]]; then
			state=due
		fi
		if [ $state = due ] && "$2"; then
			state=taken
		fi
	done <"$output/pipe" >"$output/log"
	wait "$demo" || status=$?
	demo=
	return "$status"
}

# in_order: the first of the lines that are missing, if one is.
in_order()
{
	local line next=0

	while [ "$next" -lt "${#shown[@]}" ] && IFS= read -r line; do
		[[ ! $line =~ ${shown[$next]} ]] || next=$((next + 1))
	done <"$output/log"
	[ "$next" -eq "${#shown[@]}" ] || {
		echo "missing: ${shown[$next]}"
		cat "$output/log"
		return 1
	}
}

like()
{
	# The right-hand side is a pattern on purpose.
	# shellcheck disable=SC2053
	[[ $1 == $2 ]] || {
		echo "is $1, not $2"
		tail -n 30 "$output/log"
		return 1
	}
}

# No folder and, as everything of the demo works in it, no process; so nobody who could listen either.
nothing_left()
{
	local left

	[ -n "$folder" ] || {
		echo "it never said where it runs"
		return 1
	}
	left=$(
		[ ! -e "$folder" ] || echo "$folder"
		find /proc -mindepth 2 -maxdepth 2 -path '/proc/[0-9]*/cwd' -lname "$folder*" -printf '%h %l\n' 2>/dev/null
	)
	[ -z "$left" ] || {
		echo "$left"
		return 1
	}
}

no_memory_left()
{
	[ -s "$output/segments" ] || {
		echo "no server had shared memory"
		return 1
	}
	ipcs -m -p | awk 'NR == FNR { ours[$1, $2]; next } ($1, $3) in ours { print; left = 1 } END { exit left }' \
		"$output/segments" -
}

echo "1..$((1 + 3 * ${#runs[@]}))"
for run in "${runs[@]}"; do
	IFS='|' read -r words action expected <<<"$run"
	status=0
	run_demo "$words" "$action" || status=$?
	[ "$action" != nothing ] || check 'it shows what it is there to show' in_order
	check "$action: it ends as it should" like "$status" "$expected"
	check "$action: no folder and no process is left" nothing_left
	check "$action: no shared memory is left" no_memory_left
done
