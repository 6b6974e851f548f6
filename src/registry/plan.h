/*
 * registry/plan.h
 *	  Publishing a set of changes: reserve, then commit or cancel.
 *
 * Everything that can fail happens in pgr_plan_reserve(), before the
 * transaction commits; pgr_plan_commit() runs in the commit callback, where an
 * error would be a PANIC, and is made of stores into memory that is already
 * ours (W-1, W-3).
 *
 * A reservation is a sum.  A plan is built from the block that is current at
 * its own commit, which other plans may have grown since it reserved.  So each
 * registry with reservations keeps the sum of what they may add, and one spare
 * block for each of them that is large enough for the current block plus that
 * sum.  A commit turns its part of the sum into current entries, so the bound
 * holds for the others in whatever order they commit.  No lock is held between
 * the two.
 *
 * A plan that changes little of a large registry reserves no block but one
 * version for each change, and patches.  The block that is current at its
 * commit has room for all patches that are reserved: they are reserved only
 * while it has, and a block that is built meanwhile is built with that room.
 */
#ifndef PGR_REGISTRY_PLAN_H
#define PGR_REGISTRY_PLAN_H

#include "registry/image.h"
#include "registry/publishers.h"

typedef enum PgrPlanAction
{
	PGR_PLAN_CHANGE, /* a registry that exists */
	PGR_PLAN_CREATE, /* a new one, in a slot of its own */
	PGR_PLAN_DROP
} PgrPlanAction;

/* What becomes of the definition's residency. */
typedef enum PgrPlanResidency
{
	PGR_KEEP_RESIDENCY, /* that of the block that is current at the commit */
	PGR_MAKE_RESIDENT,
	PGR_MAKE_PARTIAL,
	PGR_MAKE_HOLLOW /* no entry stays */
} PgrPlanResidency;

typedef struct PgrPlanRegistry
{
	PgrPlanAction action;
	uint32 slot;              /* CREATE: filled in by pgr_plan_reserve, or
								 * one that another entry of the plan took */
	PgrDefinition definition; /* CHANGE: whose incarnation must still be
								 * there, or the change is void: the registry
								 * has been dropped */
	PgrChange *changes;       /* no key twice */
	int nchanges;
	bool mark_missing;          /* flag all other entries */
	bool fresh;                 /* remove all other entries; nobody else has
								 * changed the registry meanwhile */
	const PgrDefinition *alter; /* NULL = as it is */
	PgrPlanResidency residency; /* CHANGE */
	const void *extra;          /* NULL = as it is */
	uint32 extra_len;
	uint32 extra_prefix;    /* keep entries only if this many bytes of
								 * extra stay the same */
	TimestampTz changed_at; /* 0 = the plan's "now" */
	uint64 expected_birth;  /* void unless built on this version; 0 = any */

	/* pgr_plan_reserve's */
	int64 entries;
	uint64 bytes;
	bool has_slot;
	bool reserved;
	bool patch;      /* CHANGE: in place */
	PgrRef versions; /* for that: one for each change, and for the state */
	PgrRef block;    /* CREATE */
} PgrPlanRegistry;

typedef struct PgrPlan
{
	PgrPlanRegistry *registries; /* in dependency order: a directory entry
									 * for a new registry comes after it */
	int nregistries;
	bool frees;   /* ends in freeing memory: may use the last
								 * of the arena */
	bool hollows; /* so does this, but it counts against the limit */
	TimestampTz now;
	bool some_void;    /* set by pgr_plan_commit */
	bool counts;       /* against the limit of its database */
	PgrPublishedBy by; /* for read_consistency = snapshot */

	/* pgr_plan_reserve's; "pages" has room for nregistries */
	uint64 over_quota; /* why it failed: so many bytes; 0 = another reason */
	uint64 quota;      /* bytes reserved of it */
	PgrRef root;
	PgrRef *pages;
	int npages;
} PgrPlan;

/*
 * Take all memory that the commit will need.  False, with nothing taken, if
 * the arena is full; *wanted is what did not fit.  Waits for the writer lock
 * only; does not throw.
 */
extern bool pgr_plan_reserve(PgrPlan *plan, Size *wanted);

/* Publish; returns the generation.  Cannot fail. */
extern uint64 pgr_plan_commit(PgrPlan *plan);

/* Give everything back. */
extern void pgr_plan_cancel(PgrPlan *plan);

/*
 * Take a durable registry out of memory: from this publish on it is read from
 * its table.
 */
extern void pgr_plan_make_hollow(PgrPlanRegistry *registry);

/* ERROR 53400: max_bytes_per_database. */
extern void pgr_plan_over_quota(uint64 bytes) pg_attribute_noreturn();

/*
 * ERROR 53200: how much is used, by which registry, and which pid pins what.
 * With 0 bytes wanted, ERROR 54000: every slot of the root is taken.
 */
extern void pgr_plan_out_of_memory(Size wanted) pg_attribute_noreturn();

/*
 * Arena memory under the writer lock, which the caller holds: reclaims when
 * there is none left.  0 on failure.
 */
extern PgrRef pgr_plan_alloc(Size size, PgrMemoryKind kind, bool last_resort);

#endif /* PGR_REGISTRY_PLAN_H */
