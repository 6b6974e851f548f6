/*
 * shm/answer_file.c
 *	  See answer_file.h.  The postmaster reads, the scheduler reads and writes;
 *	  neither may fail for it.
 */
#include "postgres.h"

#include <unistd.h>

#include "base/clock.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "shm/answer_file.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#define ANSWER_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/pg_registry.answer"
#define MAGIC UINT64_C(0x50475241004e5331) /* changes with the layout */

/* A provider that is asked each second need not cost an fsync each second. */
#define MIN_BETWEEN_WRITES_MS INT64CONST(60000)

typedef struct FileContent
{
	uint64 magic;
	PgrKeptAnswer kept;
	pg_crc32c crc; /* of all before */
	uint32 padding;
} FileContent;

static PgrKeptAnswer unwritten;
static bool is_unwritten = false;

static pg_crc32c
crc_of(const FileContent *content)
{
	pg_crc32c crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, content, offsetof(FileContent, crc));
	FIN_CRC32C(crc);
	return crc;
}

static bool
is_whole(const FileContent *content)
{
	return content->magic == MAGIC && EQ_CRC32C(content->crc, crc_of(content));
}

bool
pgr_answer_file_read(PgrKeptAnswer *kept)
{
	FileContent content = {0};
	FILE *file = AllocateFile(ANSWER_FILE, PG_BINARY_R);
	bool found;

	memset(kept, 0, sizeof(*kept));
	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", ANSWER_FILE)));
		return false;
	}
	found = fread(&content, sizeof(content), 1, file) == 1 &&
		is_whole(&content);
	FreeFile(file);
	if (found)
		*kept = content.kept;
	else
		ereport(LOG, (errmsg("ignoring invalid data in file \"%s\"", ANSWER_FILE)));
	return found;
}

static bool
write_content(const FileContent *content)
{
	FILE *file = AllocateFile(ANSWER_FILE ".tmp", PG_BINARY_W);
	bool written;

	if (file == NULL)
		return false;
	written = fwrite(content, sizeof(*content), 1, file) == 1;
	return FreeFile(file) == 0 && written;
}

static void
write_unwritten(void)
{
	static bool complained = false;
	FileContent content = {.magic = MAGIC, .kept = unwritten};

	is_unwritten = false;
	content.crc = crc_of(&content);
	if (write_content(&content) &&
		durable_rename(ANSWER_FILE ".tmp", ANSWER_FILE, LOG) == 0)
		complained = false;
	else if (!complained)
	{
		complained = true;
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", ANSWER_FILE),
				 errdetail("After a restart exchange rates are fetched at once.")));
	}
}

/* before_shmem_exit callback of the scheduler. */
static void
write_at_exit_cb(int code, Datum arg)
{
	if (is_unwritten)
		write_unwritten();
}

void
pgr_answer_file_keep(const PgrKeptAnswer *kept, bool urgent)
{
	static int64 written_ms = -MIN_BETWEEN_WRITES_MS;
	static bool registered = false;
	int64 now = pgr_monotonic_ms();

	if (!registered)
		before_shmem_exit(write_at_exit_cb, (Datum) 0);
	registered = true;
	unwritten = *kept;
	is_unwritten = true;
	if (!urgent && now - written_ms < MIN_BETWEEN_WRITES_MS)
		return;
	written_ms = now;
	write_unwritten();
}
