/*
 * durable/load.h
 *	  From the tables into the image.
 */
#ifndef PGR_DURABLE_LOAD_H
#define PGR_DURABLE_LOAD_H

/*
 * In a process connected to a database, outside a transaction: loads the
 * definitions, then every durable registry that is not resident, each in
 * transactions of its own.  Returns how many do not fit.  Does nothing if the
 * extension is not installed.
 */
extern int pgr_load_database(void);

#endif /* PGR_DURABLE_LOAD_H */
