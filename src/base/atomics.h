/*
 * base/atomics.h
 *	  Atomic words and barriers for files shared with tests/stress.
 *
 * In the extension these are PostgreSQL's own.  With PGR_STANDALONE the same
 * names are made of the compiler's builtins, and with PGR_CHAOS each of them
 * first calls pgr_chaos(), in which a validator may lose some time: windows
 * between two accesses become wide enough to be hit.
 */
#ifndef PGR_BASE_ATOMICS_H
#define PGR_BASE_ATOMICS_H

#include "base/bits.h"

#ifndef PGR_STANDALONE
#include "port/atomics.h"
#else

#ifdef PGR_CHAOS
extern void pgr_chaos(void);
#else
#define pgr_chaos() ((void) 0)
#endif

typedef struct pg_atomic_uint32
{
	uint32 value;
} pg_atomic_uint32;

typedef struct pg_atomic_uint64
{
	uint64 value __attribute__((aligned(8)));
} pg_atomic_uint64;

/* As in PostgreSQL: reads and writes are relaxed, the swap is a full barrier */
#define PGR_DEFINE_ATOMIC(bits)                                               \
	static inline void pg_atomic_init_u##bits(pg_atomic_uint##bits *p,        \
											  uint##bits value)               \
	{                                                                         \
		p->value = value;                                                     \
	}                                                                         \
	static inline uint##bits pg_atomic_read_u##bits(pg_atomic_uint##bits *p)  \
	{                                                                         \
		pgr_chaos();                                                          \
		return __atomic_load_n(&p->value, __ATOMIC_RELAXED);                  \
	}                                                                         \
	static inline void pg_atomic_write_u##bits(pg_atomic_uint##bits *p,       \
											   uint##bits value)              \
	{                                                                         \
		pgr_chaos();                                                          \
		__atomic_store_n(&p->value, value, __ATOMIC_RELAXED);                 \
	}                                                                         \
	static inline bool                                                        \
		pg_atomic_compare_exchange_u##bits(pg_atomic_uint##bits *p,           \
										   uint##bits *expected,              \
										   uint##bits value)                  \
	{                                                                         \
		pgr_chaos();                                                          \
		return __atomic_compare_exchange_n(&p->value, expected, value, false, \
										   __ATOMIC_SEQ_CST,                  \
										   __ATOMIC_SEQ_CST);                 \
	}

PGR_DEFINE_ATOMIC(32)
PGR_DEFINE_ATOMIC(64)

#define pg_memory_barrier() \
	(pgr_chaos(), __atomic_thread_fence(__ATOMIC_SEQ_CST))
#define pg_read_barrier() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define pg_write_barrier() \
	(pgr_chaos(), __atomic_thread_fence(__ATOMIC_RELEASE))

#endif /* PGR_STANDALONE */

#endif /* PGR_BASE_ATOMICS_H */
