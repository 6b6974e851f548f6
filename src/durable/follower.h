/*
 * durable/follower.h
 *	  How a database gets its follower.
 */
#ifndef PGR_DURABLE_FOLLOWER_H
#define PGR_DURABLE_FOLLOWER_H

/*
 * In a loader, on a standby: start a follower, if this database has what to
 * follow and there is a place for it.  False: there was no slot for a worker.
 */
extern bool pgr_follower_provide(void);

#endif /* PGR_DURABLE_FOLLOWER_H */
