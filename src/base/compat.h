/*
 * compat.h
 *	  Every difference between PostgreSQL major versions lives here, and
 *	  nowhere else: no other file tests PG_VERSION_NUM.
 *
 * Target: PostgreSQL 15.  17, 18 and 19 follow by extending this file.
 */
#ifndef PGR_COMPAT_H
#define PGR_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "pg_registry needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/*
 * A process's number in ProcGlobal->allProcs, stable from InitProcess to the
 * end of shmem_exit.
 */
#if PG_VERSION_NUM >= 170000
#define PgrProcNumber(proc) GetNumberFromPGProc(proc)
#else
#define PgrProcNumber(proc) ((proc)->pgprocno)
#endif

/* Tells one transaction of this process from the next. */
#if PG_VERSION_NUM >= 170000
#define PgrLocalTransactionId() (MyProc->vxid.lxid)
#else
#define PgrLocalTransactionId() (MyProc->lxid)
#endif

/* Is this lock, in this very mode, this process's? */
#if PG_VERSION_NUM >= 170000
#define pgr_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define pgr_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode)
#endif

/* ExecutorRun lost its execute_once argument in 18. */
#if PG_VERSION_NUM >= 180000
#define PGR_EXECUTOR_RUN_ARGS \
	QueryDesc *query, ScanDirection direction, uint64 count
#define PGR_EXECUTOR_RUN_PASS query, direction, count
#else
#define PGR_EXECUTOR_RUN_ARGS \
	QueryDesc *query, ScanDirection direction, uint64 count, bool execute_once
#define PGR_EXECUTOR_RUN_PASS query, direction, count, execute_once
#endif

/* Since 16 the columns of a query are in a node beside the range table. */
#if PG_VERSION_NUM >= 160000
#define pgr_init_range_table(estate, entry, columns)                         \
	do                                                                       \
	{                                                                        \
		List *permissions_ = NIL;                                            \
		addRTEPermissionInfo(&permissions_, entry)->updatedCols = (columns); \
		ExecInitRangeTable(estate, list_make1(entry), permissions_);         \
	} while (0)
#else
#define pgr_init_range_table(estate, entry, columns)   \
	do                                                 \
	{                                                  \
		(entry)->updatedCols = (columns);              \
		ExecInitRangeTable(estate, list_make1(entry)); \
	} while (0)
#endif

/*
 * ExecInsertIndexTuples learnt in 16 that summarizing indexes may be all that
 * an update has to touch; table_tuple_update says so.
 */
#if PG_VERSION_NUM >= 160000
#define PgrUpdateIndexes TU_UpdateIndexes
#define pgr_insert_index_tuples(result, slot, estate, update)                \
	((void) ExecInsertIndexTuples(result, slot, estate, update, false, NULL, \
								  NIL, false))
#else
#define PgrUpdateIndexes bool
#define pgr_insert_index_tuples(result, slot, estate, update)                \
	((void) ExecInsertIndexTuples(result, slot, estate, update, false, NULL, \
								  NIL))
#endif

#endif /* PGR_COMPAT_H */
