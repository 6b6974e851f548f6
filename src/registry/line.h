/*
 * registry/line.h
 *	  What this backend tells reclaim: its line of the image, and spare lines.
 *
 * registry/pin.c decides which statement holds which pin; here is only where
 * the generations are written.
 */
#ifndef PGR_REGISTRY_LINE_H
#define PGR_REGISTRY_LINE_H

#include "registry/image.h"

/* Process-local address of the shared image; NULL = not preloaded. */
extern PgrSharedImage *pgr_image;

/* This process's line; taken with the first call. */
extern PgrSharedLine *pgr_line_mine(void);

/*
 * Pin the newest generation; returns the cell to give to pgr_line_unpin().
 * Never fails for lack of a cell: then the caller shares the newest generation
 * that this backend pins already.
 */
extern int pgr_line_pin(TimestampTz at, uint64 *generation,
						const PgrSharedRoot **root);
extern void pgr_line_unpin(int cell);

/* When nothing is pinned any more. */
extern void pgr_line_give_back_spares(void);

/* One pin of some process, for views and messages. */
typedef struct PgrLinePin
{
	int pid;
	uint64 generation;
	TimestampTz at; /* when that process first pinned this generation */
} PgrLinePin;

typedef void (*PgrLineVisitor)(const PgrLinePin *pin, void *arg);

/*
 * Call "visit" for each pin of each process, those in spare lines included.
 * Takes no lock: pins come and go meanwhile, but each was there as it is told.
 */
extern void pgr_line_visit(PgrLineVisitor visit, void *arg);

/* The pin of the oldest generation; false if there is none. */
extern bool pgr_line_oldest(PgrLinePin *oldest);

/* The image's part of shared memory, for pgr_area_add_part. */
extern Size pgr_line_shared_size(void);
extern void pgr_line_shared_init(void *part, Size size);

#endif /* PGR_REGISTRY_LINE_H */
