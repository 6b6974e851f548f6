/*
 * rivals.c
 *	  What PostgreSQL itself offers for shared state, to measure ours against:
 *	  a dshash table, and a dynahash table under an LWLock.
 *
 * Part of the module of noop.c, which uses nothing of ours.  It must be
 * preloaded.  The tables are made at server start, in main shared memory, so
 * that both rivals have the same pages under them as we do; each read copies
 * its key into a field of fixed size, as these tables want them, and the value
 * out of the entry before it lets go of the lock.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/dshash.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/dsa.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

extern void _PG_init(void);

PG_FUNCTION_INFO_V1(bench_rivals_put);
PG_FUNCTION_INFO_V1(bench_dshash_get);
PG_FUNCTION_INFO_V1(bench_dynahash_get);

#define TRANCHE "pgr_bench"
#define KEY_BYTES 16

typedef struct Entry
{
	char key[KEY_BYTES];
	float8 value;
} Entry;

/* A table of each kind under every name; as many entries as it is made for. */
static const struct
{
	const char *name;
	long entries;
} tables[] = {
	{"fx", 30},
	{"s10", 10},
	{"s100", 100},
	{"s1000", 1000},
	{"s10000", 10000},
	{"s100000", 100000},
	{"s1000000", 1000000},
};

/* In shared memory, written by the postmaster only. */
typedef struct Shared
{
	dshash_table_handle handles[lengthof(tables)];
	char dsa[FLEXIBLE_ARRAY_MEMBER];
} Shared;

static Shared *shared;
static LWLockPadded *locks;
static HTAB *dynahash[lengthof(tables)];
static dshash_table *dshash[lengthof(tables)];

static shmem_request_hook_type previous_request;
static shmem_startup_hook_type previous_startup;

/* Entries, buckets twice over while they grow, and what DSA rounds up. */
static Size
dsa_bytes(void)
{
	Size entries = 0;

	for (int i = 0; i < lengthof(tables); i++)
		entries += tables[i].entries;
	return 16 * 1024 * 1024 + entries * 160;
}

static void
request(void)
{
	if (previous_request)
		previous_request();
	RequestAddinShmemSpace(offsetof(Shared, dsa) + dsa_bytes());
	for (int i = 0; i < lengthof(tables); i++)
		RequestAddinShmemSpace(
			hash_estimate_size(tables[i].entries, sizeof(Entry)));
	RequestNamedLWLockTranche(TRANCHE, lengthof(tables) + 1);
}

static dshash_parameters
parameters(void)
{
	/* the tranche is the last of our own locks' */
	dshash_parameters p = {KEY_BYTES, sizeof(Entry), dshash_memcmp,
						   dshash_memhash,
						   locks[lengthof(tables)].lock.tranche};

	return p;
}

static void
make_dshash(void)
{
	dshash_parameters p = parameters();
	dsa_area *area = dsa_create_in_place(shared->dsa, dsa_bytes(),
										 p.tranche_id, NULL);

	dsa_pin(area);
	dsa_set_size_limit(area, dsa_bytes());
	for (int i = 0; i < lengthof(tables); i++)
	{
		dshash_table *table = dshash_create(area, &p, NULL);

		shared->handles[i] = dshash_get_hash_table_handle(table);
		dshash_detach(table);
	}
	dsa_detach(area);
}

static void
startup(void)
{
	HASHCTL control = {.keysize = KEY_BYTES, .entrysize = sizeof(Entry)};
	bool found;

	if (previous_startup)
		previous_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	locks = GetNamedLWLockTranche(TRANCHE);
	shared = ShmemInitStruct("pgr_bench", offsetof(Shared, dsa) + dsa_bytes(),
							 &found);
	if (!found)
		make_dshash();
	for (int i = 0; i < lengthof(tables); i++)
		dynahash[i] = ShmemInitHash(tables[i].name, tables[i].entries,
									tables[i].entries, &control,
									HASH_ELEM | HASH_BLOBS);
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	previous_request = shmem_request_hook;
	shmem_request_hook = request;
	previous_startup = shmem_startup_hook;
	shmem_startup_hook = startup;
}

static void
attach_dshash(void)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	dshash_parameters p = parameters();
	dsa_area *area = dsa_attach_in_place(shared->dsa, NULL);

	dsa_pin_mapping(area);
	for (int i = 0; i < lengthof(tables); i++)
		dshash[i] = dshash_attach(area, &p, shared->handles[i], NULL);
	MemoryContextSwitchTo(caller);
}

static int
table_named(const text *name)
{
	if (shared == NULL)
		elog(ERROR, "pgr_bench must be in shared_preload_libraries");
	if (dshash[0] == NULL)
		attach_dshash();
	for (int i = 0; i < lengthof(tables); i++)
		if (strlen(tables[i].name) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(tables[i].name, VARDATA_ANY(name),
				   VARSIZE_ANY_EXHDR(name)) == 0)
			return i;
	elog(ERROR, "no such table");
}

/* The table of the first argument, a constant; looked for once a statement. */
static inline int
table_of(FunctionCallInfo fcinfo)
{
	if (unlikely(fcinfo->flinfo->fn_extra == NULL))
		fcinfo->flinfo->fn_extra =
			(void *) (intptr_t) (table_named(PG_GETARG_TEXT_PP(0)) + 1);
	return (int) (intptr_t) fcinfo->flinfo->fn_extra - 1;
}

static inline void
copy_key(char *to, const text *key)
{
	memset(to, 0, KEY_BYTES);
	memcpy(to, VARDATA_ANY(key), Min(VARSIZE_ANY_EXHDR(key), KEY_BYTES));
}

Datum
bench_rivals_put(PG_FUNCTION_ARGS)
{
	int table = table_of(fcinfo);
	char key[KEY_BYTES];
	bool found;
	Entry *entry;

	copy_key(key, PG_GETARG_TEXT_PP(1));
	entry = dshash_find_or_insert(dshash[table], key, &found);
	entry->value = PG_GETARG_FLOAT8(2);
	dshash_release_lock(dshash[table], entry);

	LWLockAcquire(&locks[table].lock, LW_EXCLUSIVE);
	entry = hash_search(dynahash[table], key, HASH_ENTER, &found);
	entry->value = PG_GETARG_FLOAT8(2);
	LWLockRelease(&locks[table].lock);
	PG_RETURN_VOID();
}

Datum
bench_dshash_get(PG_FUNCTION_ARGS)
{
	int table = table_of(fcinfo);
	char key[KEY_BYTES];
	float8 value;
	Entry *entry;

	copy_key(key, PG_GETARG_TEXT_PP(1));
	entry = dshash_find(dshash[table], key, false);
	if (entry == NULL)
		PG_RETURN_NULL();
	value = entry->value;
	dshash_release_lock(dshash[table], entry);
	PG_RETURN_FLOAT8(value);
}

Datum
bench_dynahash_get(PG_FUNCTION_ARGS)
{
	int table = table_of(fcinfo);
	char key[KEY_BYTES];
	float8 value = 0;
	Entry *entry;

	copy_key(key, PG_GETARG_TEXT_PP(1));
	LWLockAcquire(&locks[table].lock, LW_SHARED);
	entry = hash_search(dynahash[table], key, HASH_FIND, NULL);
	if (entry != NULL)
		value = entry->value;
	LWLockRelease(&locks[table].lock);
	if (entry == NULL)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(value);
}
