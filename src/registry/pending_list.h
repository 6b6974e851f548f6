/*
 * registry/pending_list.h
 *	  The list of uncommitted changes: shared by pending.c, which keeps it, and
 *	  pending_commit.c, which publishes it.
 */
#ifndef PGR_REGISTRY_PENDING_LIST_H
#define PGR_REGISTRY_PENDING_LIST_H

#include "access/xact.h"

#include "registry/pending.h"
#include "registry/plan.h"

typedef enum PgrPendingKind
{
	PGR_CHANGE_PUT,
	PGR_CHANGE_DELETE,
	PGR_CHANGE_CREATE, /* value: its PgrDefinition */
	PGR_CHANGE_DROP,
	PGR_CHANGE_RATES, /* value: extra; flags: length of its prefix */
	PGR_CHANGE_DROP_ALL,
	PGR_CHANGE_CLEAR,     /* all entries that are there */
	PGR_CHANGE_ALTER,     /* value: the PgrDefinition from now on */
	PGR_CHANGE_LEAVE,     /* the registry of this name has another one now */
	PGR_CHANGE_ENTER,     /* value: origin of the registry that has it now */
	PGR_CHANGE_UNTRACKED, /* the list lacks changes of a durable registry */
	PGR_CHANGE_COMPLETE,  /* of the database's directory: names all */
	PGR_CHANGE_FORGET,    /* all durable registries of the database */
	PGR_CHANGE_GRANTS     /* the grants of the registry: the table has them */
} PgrPendingKind;

/*
 * What a registry is called in the list: its origin, the name that it had when
 * the transaction began or created it, and its incarnation.  So a change finds
 * its registry before and after it gets another name.  What a name means is
 * told by the changes of names: CREATE, DROP, LEAVE, ENTER.  A DROP of a
 * registry that has another name than its origin has that as its value.
 */
static inline bool
pgr_change_is_of_name(uint8 kind)
{
	return kind == PGR_CHANGE_CREATE || kind == PGR_CHANGE_DROP ||
		kind == PGR_CHANGE_DROP_ALL || kind == PGR_CHANGE_LEAVE ||
		kind == PGR_CHANGE_ENTER;
}

/* Registries that this transaction has created have incarnations of its own,
 * until they are published. */
#define PGR_PROVISIONAL (UINT64_C(1) << 63)

/*
 * One uncommitted change, in the arena.
 *
 * Writer: the backend whose transaction it is.  Readers: its parallel workers,
 * while it may not write.  Lifetime: until that (sub)transaction ends; a
 * writer that dies takes the server down.
 */
typedef struct PgrPendingChange
{
	PgrRef older;
	PgrRef older_same;  /* next older one with the same hash */
	uint64 hash;        /* of registry and key; see pending.c */
	uint64 incarnation; /* of the registry */
	uint32 sequence;
	CommandId command;
	SubTransactionId subtransaction;
	uint8 kind;
	uint8 spare;
	uint16 flags;
	Oid database;
	Oid extension;
	uint32 name_len;
	uint32 key_len;
	uint32 value_len;
	uint32 name_offset; /* in data */
	uint32 key_offset;  /* in data */
	PgrFixed fixed;
	TimestampTz updated_at;
	TimestampTz expires_at;
	char data[FLEXIBLE_ARRAY_MEMBER]; /* value, name, key */
} PgrPendingChange;

/* Changes of one registry, newest of each key: what a block is built from. */
typedef struct PgrFold
{
	PgrChange *changes;
	int nchanges;
	int capacity;
	struct HTAB *by_key; /* once there are many */
	bool mark_missing;
	bool fresh; /* nothing else stays */
	const void *extra;
	uint32 extra_len;
	uint32 extra_prefix;
} PgrFold;

extern void pgr_fold_add(PgrFold *fold, const PgrPendingChange *change);
extern void pgr_fold_clear(PgrFold *fold);

static inline bool
pgr_change_is_of(const PgrPendingChange *change,
				 const PgrRegistryName *registry)
{
	return change->database == registry->database &&
		change->extension == registry->extension &&
		change->name_len == registry->len &&
		memcmp(change->data + change->name_offset, registry->name,
			   registry->len) == 0;
}

/* The origin of the registry that a change is for. */
static inline PgrRegistryName
pgr_change_origin(const PgrPendingChange *change)
{
	PgrRegistryName origin = {change->database, change->extension,
							  change->data + change->name_offset,
							  change->name_len};

	if (change->kind == PGR_CHANGE_DROP && change->value_len > 0)
	{
		origin.name = change->data;
		origin.len = change->value_len;
	}
	return origin;
}

/* The changes from the oldest to the newest, in the current context. */
extern PgrPendingChange **pgr_pending_oldest_first(int *n);

/* pending_commit.c: called from the transaction callbacks of pending.c */
extern void pgr_pending_prepare_commit(void);
extern void pgr_pending_commit(void);
extern void pgr_pending_cancel_commit(void);

#endif /* PGR_REGISTRY_PENDING_LIST_H */
