/*
 * lmdb.c
 *	  The same keys and values in LMDB, in plain C: what an embedded store does
 *	  with nothing of PostgreSQL around it.
 *
 *	  lmdb DIRECTORY		reads commands, one a line; answers with one number
 *
 *		fill N				a store of N keys to read from
 *		get N READS			ns for each mdb_get of a random key, in one
 *							read transaction that is open already
 *		change N TIMES		ns for each transaction that changes a random key
 *		load N sorted|shuffled	ms to put N keys into an empty store by one
 *							transaction
 *
 * MDB_NOSYNC | MDB_WRITEMAP: as fast as LMDB writes, and about as durable as
 * shared memory is.  DIRECTORY should be on tmpfs.
 */
#include <errno.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KEY_BYTES 16

typedef struct Key
{
	char text[KEY_BYTES];
	uint32_t len;
} Key;

typedef struct Store
{
	MDB_env *env;
	MDB_dbi dbi;
	int keys;
	char path[4096];
} Store;

static const char *directory;

static void
must(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "lmdb: %s: %s\n", what, mdb_strerror(rc));
	exit(1);
}

static double
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}

static uint32_t
random_below(uint32_t n)
{
	static uint64_t state = UINT64_C(0x9E3779B97F4A7C15);

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t) ((state >> 32) * n >> 32);
}

static void *
allocate(size_t bytes)
{
	void *memory = malloc(bytes);

	if (memory == NULL)
		must(ENOMEM, "memory");
	return memory;
}

/* As tests/bench/setup.sql has them. */
static void
set_key(Key *key, uint32_t i)
{
	key->len = (uint32_t) snprintf(key->text, KEY_BYTES, "I%u", 1000000 + i);
}

static Key *
sorted_keys(int n)
{
	Key *keys = allocate((size_t) n * sizeof(Key));

	for (int i = 0; i < n; i++)
		set_key(&keys[i], (uint32_t) i);
	return keys;
}

static Key *
random_keys(int below, int n)
{
	Key *keys = allocate((size_t) n * sizeof(Key));

	for (int i = 0; i < n; i++)
		set_key(&keys[i], random_below((uint32_t) below));
	return keys;
}

static void
shuffle(Key *keys, int n)
{
	for (int i = n - 1; i > 0; i--)
	{
		uint32_t j = random_below((uint32_t) i + 1);
		Key key = keys[i];

		keys[i] = keys[j];
		keys[j] = key;
	}
}

static void
open_store(Store *store, const char *name, int keys)
{
	MDB_txn *txn;

	store->keys = keys;
	snprintf(store->path, sizeof(store->path), "%s/%s", directory, name);
	must(mdb_env_create(&store->env), "mdb_env_create");
	must(mdb_env_set_mapsize(store->env,
							 ((size_t) 64 << 20) + (size_t) keys * 256),
		 "mdb_env_set_mapsize");
	must(mdb_env_open(store->env, store->path,
					  MDB_NOSUBDIR | MDB_NOSYNC | MDB_WRITEMAP, 0600),
		 "mdb_env_open");
	must(mdb_txn_begin(store->env, NULL, 0, &txn), "mdb_txn_begin");
	must(mdb_dbi_open(txn, NULL, 0, &store->dbi), "mdb_dbi_open");
	must(mdb_txn_commit(txn), "mdb_txn_commit");
}

static void
put(Store *store, MDB_txn *txn, Key *key, double number)
{
	MDB_val k = {key->len, key->text};
	MDB_val v = {sizeof(number), &number};

	must(mdb_put(txn, store->dbi, &k, &v, 0), "mdb_put");
}

static double
put_all(Store *store, Key *keys)
{
	double start = now_ns();
	MDB_txn *txn;

	must(mdb_txn_begin(store->env, NULL, 0, &txn), "mdb_txn_begin");
	for (int i = 0; i < store->keys; i++)
		put(store, txn, &keys[i], i);
	must(mdb_txn_commit(txn), "mdb_txn_commit");
	return (now_ns() - start) / 1e6;
}

static double
load(int n, int shuffled)
{
	Store store;
	Key *keys = sorted_keys(n);
	double ms;

	if (shuffled)
		shuffle(keys, n);
	open_store(&store, "load", n);
	ms = put_all(&store, keys);
	mdb_env_close(store.env);
	unlink(store.path);
	free(keys);
	return ms;
}

static double
get(Store *store, int reads)
{
	Key *keys = random_keys(store->keys, reads);
	MDB_txn *txn;
	double sum = 0;
	double start;
	double took;

	must(mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn), "mdb_txn_begin");
	start = now_ns();
	for (int i = 0; i < reads; i++)
	{
		MDB_val k = {keys[i].len, keys[i].text};
		MDB_val v;
		double number;

		must(mdb_get(txn, store->dbi, &k, &v), "mdb_get");
		memcpy(&number, v.mv_data, sizeof(number));
		sum += number;
	}
	took = now_ns() - start;
	mdb_txn_abort(txn);
	free(keys);
	if (sum < 0)
		must(EINVAL, "sum");
	return took / reads;
}

static double
change(Store *store, int times)
{
	Key *keys = random_keys(store->keys, times);
	double start = now_ns();

	for (int i = 0; i < times; i++)
	{
		MDB_txn *txn;

		must(mdb_txn_begin(store->env, NULL, 0, &txn), "mdb_txn_begin");
		put(store, txn, &keys[i], i);
		must(mdb_txn_commit(txn), "mdb_txn_commit");
	}
	start = (now_ns() - start) / times;
	free(keys);
	return start;
}

/* The store of N keys, made and filled when it is first named. */
static Store *
store_of(int n)
{
	static Store stores[16];
	static int count = 0;
	char name[32];
	Key *keys;

	for (int i = 0; i < count; i++)
		if (stores[i].keys == n)
			return &stores[i];
	if (count == 16)
		must(ENOMEM, "stores");
	snprintf(name, sizeof(name), "keys%d", n);
	open_store(&stores[count], name, n);
	keys = sorted_keys(n);
	put_all(&stores[count], keys);
	free(keys);
	return &stores[count++];
}

int
main(int argc, char **argv)
{
	char line[128];
	char order[16] = "";
	int n;
	int times;

	if (argc != 2)
		must(EINVAL, "usage: lmdb DIRECTORY");
	directory = argv[1];
	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		if (sscanf(line, "fill %d", &n) == 1)
			printf("%d\n", store_of(n)->keys);
		else if (sscanf(line, "get %d %d", &n, &times) == 2)
			printf("%.2f\n", get(store_of(n), times));
		else if (sscanf(line, "change %d %d", &n, &times) == 2)
			printf("%.2f\n", change(store_of(n), times));
		else if (sscanf(line, "load %d %15s", &n, order) == 2)
			printf("%.3f\n", load(n, strcmp(order, "sorted") != 0));
		else
			must(EINVAL, line);
		fflush(stdout);
	}
	return 0;
}
