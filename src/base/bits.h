/*
 * base/bits.h
 *	  The few C facilities that files shared with tests/stress need.
 *
 * shm/arena, shm/ring and registry/block are built twice: into the extension
 * with postgres.h, and into plain programs with PGR_STANDALONE, which get the
 * same names from here.
 */
#ifndef PGR_BASE_BITS_H
#define PGR_BASE_BITS_H

#ifdef PGR_STANDALONE
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t uint8;
typedef uint16_t uint16;
typedef uint32_t uint32;
typedef uint64_t uint64;
typedef int32_t int32;
typedef int64_t int64;
typedef size_t Size;
typedef unsigned int Oid;
typedef int64 TimestampTz;

#define Assert(condition) assert(condition)
#define likely(x) __builtin_expect((x) != 0, 1)
#define unlikely(x) __builtin_expect((x) != 0, 0)
#define StaticAssertDecl(condition, message) _Static_assert(condition, message)
#define TYPEALIGN(a, n) \
	(((uintptr_t) (n) + ((a) -1)) & ~((uintptr_t) ((a) -1)))
#define MAXALIGN(n) TYPEALIGN(8, (n))
#define Max(a, b) ((a) > (b) ? (a) : (b))
#define Min(a, b) ((a) < (b) ? (a) : (b))
#define FLEXIBLE_ARRAY_MEMBER
#ifndef USE_ASSERT_CHECKING
#define USE_ASSERT_CHECKING 1
#endif
#else
#include "datatype/timestamp.h"
#endif /* PGR_STANDALONE */

/* Index of the highest set bit; n must not be 0. */
static inline int
pgr_bits_high(uint64 n)
{
	Assert(n != 0);
	return 63 - __builtin_clzll(n);
}

/* Index of the lowest set bit; n must not be 0. */
static inline int
pgr_bits_low(uint64 n)
{
	Assert(n != 0);
	return __builtin_ctzll(n);
}

#endif /* PGR_BASE_BITS_H */
