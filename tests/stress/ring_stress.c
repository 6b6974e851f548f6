/*
 * ring_stress.c
 *	  If this fails, registry.log_tail shows records that are mixtures of two,
 *	  the counts of lost records are wrong, or one stuck process stops the log
 *	  of the whole server.
 *
 * Plain processes hammer one ring in an anonymous shared mapping, as backends
 * do.  Every record carries its ticket and a checksum over all of its bytes,
 * so a reader can tell a torn one.  Writers are stopped, continued and killed
 * between claim and release.
 *
 *		ring_stress [seconds]		default 2 for each of the two storms
 *
 * link: -DPGR_STANDALONE src/shm/ring.c
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shm/ring.h"

#define SLOT_BYTES 512
#define WORDS ((SLOT_BYTES - PGR_RING_SLOT_HEAD) / sizeof(uint64))
#define WRITERS 6
#define READERS 3
#define MAX_SLOTS 64

/* What the processes tell each other, beside the ring. */
typedef struct Shared
{
	int stop;              /* set by the parent */
	uint64 drawn[WRITERS]; /* tickets that a writer asked for */
	uint64 delivered[READERS];
	uint64 torn[READERS];
	uint64 backwards[READERS];
	uint64 pending[READERS]; /* skipped by a drain */
	uint64 overtaken[READERS];
	uint64 until[READERS]; /* the cursor's place at the end */
} Shared;

static Shared *shared;
static PgrSharedRing *ring;
static int tests = 0;
static int failures = 0;

static void
ok(bool good, const char *format, ...)
{
	va_list args;

	printf("%sok %d - ", good ? "" : "not ", ++tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	failures += !good;
}

static void *
share(Size size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
	{
		perror("mmap");
		exit(2);
	}
	return at;
}

static void
new_ring(uint32 slots)
{
	memset(shared, 0, sizeof(*shared));
	pgr_ring_init(ring, slots, SLOT_BYTES);
}

static bool
stopping(void)
{
	return __atomic_load_n(&shared->stop, __ATOMIC_RELAXED);
}

/* A record: ticket, writer, filler that depends on both, checksum. */
static uint64
next_word(uint64 word)
{
	word ^= word << 13;
	word ^= word >> 7;
	return word ^ (word << 17);
}

static void
fill(uint64 *words, uint64 ticket, uint64 writer, int from, int to)
{
	uint64 word = (ticket + 1) * UINT64_C(0x9E3779B97F4A7C15) + writer;

	for (int i = 0; i < (int) WORDS; i++)
	{
		uint64 value = i == 0 ? ticket : i == 1 ? writer : word;

		word = next_word(word | 1);
		if (i >= from && i < to)
			words[i] = value;
	}
}

static bool
is_whole(const uint64 *words, uint64 ticket)
{
	uint64 expected[WORDS];

	fill(expected, ticket, words[1], 0, WORDS);
	return memcmp(words, expected, sizeof(expected)) == 0;
}

static bool
write_one(uint64 writer)
{
	uint64 ticket;
	uint64 *words = pgr_ring_claim(ring, &ticket);

	if (words == NULL)
		return false;
	fill(words, ticket, writer, 0, WORDS);
	pgr_ring_release(ring, ticket);
	return true;
}

static void
writer_main(int me)
{
	while (!stopping())
	{
		(void) write_one((uint64) me);
		shared->drawn[me]++;
	}
}

/* One drain with a cursor of its own; at the end it empties the ring. */
static void
drain_main(int me)
{
	PgrRingCursor cursor = {0};
	uint64 copy[WORDS];
	uint64 last = 0;
	bool last_round = false;
	int patience = 0;

	for (;;)
	{
		PgrRingRead found = pgr_ring_next(ring, &cursor, copy);

		if (found == PGR_RING_RECORD)
		{
			uint64 ticket = cursor.next - 1;

			shared->delivered[me]++;
			shared->torn[me] += !is_whole(copy, ticket);
			shared->backwards[me] += ticket < last;
			last = ticket;
			patience = 0;
		}
		else if (found == PGR_RING_PENDING && (last_round || ++patience > 100))
		{
			pgr_ring_skip(&cursor);
			patience = 0;
		}
		else if (found == PGR_RING_END && last_round)
			break;
		if (found == PGR_RING_END && stopping())
			last_round = true;
	}
	shared->pending[me] = cursor.skipped;
	shared->overtaken[me] = cursor.overtaken;
	shared->until[me] = cursor.next;
}

static pid_t
start(void (*body)(int), int argument)
{
	pid_t pid = fork();

	if (pid < 0)
	{
		perror("fork");
		exit(2);
	}
	if (pid == 0)
	{
		body(argument);
		_exit(0);
	}
	return pid;
}

static bool
ended_well(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void
nap_us(long us)
{
	struct timespec time = {us / 1000000, us % 1000000 * 1000};

	nanosleep(&time, NULL);
}

static double
now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static uint64
sum(const uint64 *values, int n)
{
	uint64 total = 0;

	for (int i = 0; i < n; i++)
		total += values[i];
	return total;
}

/* The numbers that must hold for every drain, whatever the schedule was. */
static void
check_drains(const char *name)
{
	for (int i = 0; i < READERS; i++)
	{
		ok(shared->torn[i] == 0 && shared->backwards[i] == 0 &&
			   shared->delivered[i] > 0,
		   "%s: drain %d: %llu records, none torn, in order", name, i,
		   (unsigned long long) shared->delivered[i]);
		ok(shared->until[i] ==
			   shared->delivered[i] + shared->pending[i] +
				   shared->overtaken[i],
		   "%s: drain %d: every ticket delivered, overtaken or skipped", name,
		   i);
	}
}

/* On a busy machine a drain may not have had its turn yet. */
static bool
somebody_starves(void)
{
	for (int i = 0; i < READERS; i++)
		if (*(volatile uint64 *) &shared->delivered[i] == 0)
			return true;
	return false;
}

/*
 * Writers as fast as they can over few slots, so that they meet in one slot
 * and lap the readers; SIGSTOP and SIGCONT hit them anywhere.
 */
static void
storm(uint32 slots, double seconds)
{
	pid_t writers[WRITERS];
	pid_t readers[READERS];
	double end = now_s() + seconds;
	char name[32];
	int clean = 0;
	uint64 accepted;
	uint64 busy;

	snprintf(name, sizeof(name), "storm over %u slots", slots);
	new_ring(slots);
	for (int i = 0; i < READERS; i++)
		readers[i] = start(drain_main, i);
	for (int i = 0; i < WRITERS; i++)
		writers[i] = start(writer_main, i);
	for (int turn = 0; now_s() < end || somebody_starves(); turn++)
	{
		kill(writers[turn % WRITERS], SIGSTOP);
		nap_us(500 + turn % 7 * 300);
		kill(writers[turn % WRITERS], SIGCONT);
	}
	shared->stop = 1;
	for (int i = 0; i < WRITERS; i++)
		clean += ended_well(writers[i]);
	for (int i = 0; i < READERS; i++)
		clean += ended_well(readers[i]);

	ok(clean == WRITERS + READERS, "%s: every process ended well", name);
	accepted = pgr_ring_counter(ring, PGR_RING_ACCEPTED);
	busy = pgr_ring_counter(ring, PGR_RING_BUSY);
	ok(accepted + busy == sum(shared->drawn, WRITERS) &&
		   accepted + busy == pgr_ring_head(ring),
	   "%s: %llu accepted and %llu busy are all that were drawn", name,
	   (unsigned long long) accepted, (unsigned long long) busy);
	check_drains(name);
}

/* A writer that stops itself in the middle of a record. */
static void
victim_main(int writer)
{
	uint64 ticket;
	uint64 *words = pgr_ring_claim(ring, &ticket);

	fill(words, ticket, (uint64) writer, 0, WORDS / 2);
	raise(SIGSTOP);
	fill(words, ticket, (uint64) writer, WORDS / 2, WORDS);
	pgr_ring_release(ring, ticket);
}

static pid_t
start_victim(void)
{
	pid_t victim = start(victim_main, 77);
	int status;

	while (waitpid(victim, &status, WUNTRACED) < 0 && errno == EINTR)
		;
	if (!WIFSTOPPED(status))
		exit(2);
	return victim;
}

static void
write_many(int n, int *accepted)
{
	*accepted = 0;
	for (int i = 0; i < n; i++)
		*accepted += write_one(5);
}

/* A stopped writer costs one slot and nothing else, until it continues. */
static void
stopped_writer(void)
{
	uint64 copy[WORDS];
	pid_t victim;
	int accepted;

	new_ring(8);
	write_many(3, &accepted);
	victim = start_victim(); /* has ticket 3 */
	ok(pgr_ring_read(ring, 3, copy) == PGR_RING_PENDING,
	   "stopped writer: its record is pending");
	write_many(24, &accepted); /* three laps */
	ok(accepted == 21 && pgr_ring_counter(ring, PGR_RING_BUSY) == 3,
	   "stopped writer: 3 laps lose 3 records, by reason busy");
	ok(pgr_ring_read(ring, 26, copy) == PGR_RING_RECORD && is_whole(copy, 26),
	   "stopped writer: the newest record is readable");
	ok(pgr_ring_read(ring, 28, copy) == PGR_RING_END &&
		   pgr_ring_read(ring, 11, copy) == PGR_RING_PENDING &&
		   pgr_ring_read(ring, 4, copy) == PGR_RING_OVERTAKEN,
	   "stopped writer: not drawn, dropped and overtaken tickets are told");

	kill(victim, SIGCONT);
	waitpid(victim, NULL, 0);
	ok(pgr_ring_read(ring, 3, copy) == PGR_RING_RECORD && is_whole(copy, 3),
	   "continued writer: its record is whole");
	write_many(8, &accepted);
	ok(accepted == 8, "continued writer: its slot is in use again");
}

/* The same for a killed one; only a new ring gives the slot back. */
static void
killed_writer(void)
{
	uint64 copy[WORDS];
	PgrRingCursor cursor = {0};
	pid_t victim;
	int accepted;
	int read = 0;

	new_ring(8);
	victim = start_victim(); /* has ticket 0 */
	kill(victim, SIGKILL);
	waitpid(victim, NULL, 0);
	write_many(7, &accepted);
	ok(accepted == 7, "killed writer: the other slots go on");
	ok(pgr_ring_next(ring, &cursor, copy) == PGR_RING_PENDING &&
		   cursor.next == 0,
	   "killed writer: a drain sees the gap and may wait");
	pgr_ring_skip(&cursor);
	while (pgr_ring_next(ring, &cursor, copy) == PGR_RING_RECORD)
		read += is_whole(copy, cursor.next - 1);
	ok(read == 7 && cursor.skipped == 1,
	   "killed writer: or skips it, counted, and gets the rest");
	new_ring(8);
	write_many(8, &accepted);
	ok(accepted == 8 && pgr_ring_counter(ring, PGR_RING_BUSY) == 0,
	   "killed writer: a new ring is whole");
}

/* A writer that drew its ticket long ago finds a newer one and gives way. */
static void
late_writer(void)
{
	uint64 ticket;
	uint64 copy[WORDS];

	new_ring(1);
	ring->head = 5;
	(void) write_one(1); /* ticket 5 */
	ring->head = 2;
	ok(pgr_ring_claim(ring, &ticket) == NULL,
	   "late writer: does not overwrite a newer record");
	ring->head = 6;
	ok(pgr_ring_read(ring, 5, copy) == PGR_RING_RECORD && is_whole(copy, 5),
	   "late writer: the newer record stays");
}

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 2;

	shared = share(sizeof(*shared));
	ring = share(pgr_ring_size(MAX_SLOTS, SLOT_BYTES));

	stopped_writer();
	killed_writer();
	late_writer();
	storm(2, seconds);
	storm(MAX_SLOTS, seconds);
	printf("1..%d\n", tests);
	return failures ? 1 : 0;
}
