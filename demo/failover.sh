# shellcheck shell=bash
# The second act of scripts/demo, which sources this file: a streaming standby reads what the primary knows, and
# takes over when the primary is killed, at a time at which the source of the rates does not answer either.
#
# A killed server cleans up nothing, so this file also has what ends its processes and gives back its memory.
#
# shellcheck disable=SC2034,SC2154	# the variables of scripts/demo

# on SERVER CMD...: with that server as the one that is asked.
on()
{
	local server=$1

	shift
	"$@"
}

# show_on SERVER SQL [OPTION...]: show it, and say where.
show_on()
{
	printf '%s-- on the %s%s\n' "$dim" "$1" "$plain"
	on "$1" show "${@:2}"
}

# Streaming goes through the primary's socket: -R writes that into the copy, which differs in nothing but its port.
start_standby()
{
	quiet "$RUN_DIR/log/basebackup.log" as_runner pg_basebackup -h "$RUN_DIR" -p "${port_of[primary]}" -U postgres \
		-D "$RUN_DIR/standby" -R --checkpoint=fast --no-sync
	say "port = ${port_of[standby]}" | as_runner tee -a "$RUN_DIR/standby/postgresql.conf" >/dev/null
	start_server standby
}

# wait_replayed: until the standby has replayed all that the primary has written so far.
wait_replayed()
{
	local lsn

	lsn=$(on primary ask "SELECT pg_current_wal_insert_lsn()")
	on standby wait_for 30 "SELECT pg_last_wal_replay_lsn() >= '$lsn'"
}

# Before the standby, as the first use of a registry has every database brought up to date: rates that were fetched
# before CREATE EXTENSION get into its tables.
show_durable()
{
	heading "A durable registry"
	show_on primary "SELECT registry.create_registry('limits', 'numeric');"
	show_on primary "SELECT registry.put('limits', 'max_order', 20000);"
}

show_standby()
{
	local rate

	heading "A streaming standby, by pg_basebackup -R: it fetches nothing and knows the same rates"
	start_standby
	wait_replayed
	# What was fetched last may still be on its way into the primary's tables.
	rate=$(on primary ask "SELECT registry.rate('EUR', 'USD')")
	on standby wait_for 30 "SELECT registry.rate('EUR', 'USD') = $rate"
	show_on primary "SELECT application_name, state FROM pg_stat_replication;"
	show_on standby "SELECT pg_is_in_recovery(), scheduler_state FROM registry.status();"
	show_on standby "SELECT registry.convert(100, 'EUR', 'USD');"
}

show_following()
{
	heading "What is put on the primary is read on the standby"
	show_on primary "SELECT registry.put('limits', 'max_order', 25000);"
	on standby wait_for 30 "SELECT registry.get_numeric('limits', 'max_order') = 25000"
	show_on standby "SELECT registry.get_numeric('limits', 'max_order');"
}

# wait_ended SECONDS PID: until it has ended by itself.
wait_ended()
{
	local end=$((SECONDS + $1))

	while is_running "$2"; do
		[ "$SECONDS" -lt "$end" ] || die "process $2 of the killed server still runs after $1 s"
		sleep 0.05
	done
}

# remove_shared_memory DATA: the small segment by which a server keeps a second one out of its data directory.  Its id
# is in the file that a killed server leaves there; a segment of somebody else's has another creator.
remove_shared_memory()
{
	local id creator

	creator=$(as_runner sed -n 1p "$1/postmaster.pid")
	id=$(as_runner sed -n 7p "$1/postmaster.pid" | awk '{ print $2 }')
	ipcs -m -p | awk -v id="$id" -v creator="$creator" '$1 == id && $3 == creator { found = 1 } END { exit !found }' ||
		return 0
	as_runner ipcrm -m "$id"
}

# end_processes: what stop_servers cannot know: the processes of a server that was killed, and whoever was interrupted
# before he had written his pid into a file.  They work below RUN_DIR, but so may the shell of a curious user.
end_processes()
{
	local folder file

	while read -r folder; do
		case $(readlink "$folder/exe") in
			*/postgres | */nginx) kill -KILL "${folder#/proc/}" 2>/dev/null && wait_gone "${folder#/proc/}" ;;
		esac
	done < <(find /proc -mindepth 2 -maxdepth 2 -path '/proc/[0-9]*/cwd' \
		\( -lname "${RUN_DIR:?}" -o -lname "$RUN_DIR/*" \) -printf '%h\n' 2>/dev/null)
	for file in "$RUN_DIR"/*/postmaster.pid; do
		[ ! -s "$file" ] || remove_shared_memory "${file%/*}"
	done
}

# kill_primary: as the machine under it would, without a warning; then its disk is gone, too.
kill_primary()
{
	local postmaster pid
	local -a children

	postmaster=$(postmaster_of primary)
	mapfile -t children < <(pgrep -P "$postmaster")
	kill -KILL "$postmaster"
	for pid in "$postmaster" "${children[@]}"; do
		wait_ended 30 "$pid"
	done
	remove_shared_memory "$RUN_DIR/primary"
	as_runner rm -rf "$RUN_DIR/primary"
	unset 'port_of[primary]'
	say "kill -9 $postmaster; its ${#children[@]} processes ended by themselves, its data directory is removed"
	say ""
}

show_failover()
{
	local before after

	heading "The primary is killed, the standby promoted: nothing is lost"
	before=$(on primary ask "SELECT registry.convert(100, 'EUR', 'USD')")
	kill_primary
	server=standby
	show_on standby "SELECT pg_promote();"
	show_on standby "SELECT pg_is_in_recovery(), registry.convert(100, 'EUR', 'USD'), age,
	registry.get_numeric('limits', 'max_order') AS max_order
FROM registry.rates WHERE currency = 'USD';"
	after=$(ask "SELECT registry.convert(100, 'EUR', 'USD')")
	# Somebody else's source may have been asked already, and have something new to say.
	[ "$after" = "$before" ] || [ -n "$live_source" ] || die "converted to $before before, to $after now"
}

show_refreshing()
{
	if [ -n "$live_source" ]; then
		heading "The promoted server asks the source"
		show "SELECT ok, http_status, error FROM registry.refresh('rates');" -x
		return
	fi
	heading "The source is back, with another rate for USD; nobody tells the promoted server"
	serve_usd 1.1111
	run_nginx || die "nginx did not start again: $(tail -n 1 "$RUN_DIR/log/error.log")"
	wait_for 30 "SELECT registry.rate('EUR', 'USD') = 1.1111"
	show "SELECT currency, rate, age, registry.convert(100, 'EUR', 'USD') FROM registry.rates WHERE currency = 'USD';"
}

show_put()
{
	heading "And it can be written to"
	show "SELECT registry.put('limits', 'max_order', 30000);"
	show "SELECT registry.get_numeric('limits', 'max_order');"
}
