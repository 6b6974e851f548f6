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

#endif /* PGR_COMPAT_H */
