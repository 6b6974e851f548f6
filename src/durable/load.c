/*
 * durable/load.c
 *	  From the tables into the image: there are no tables yet.
 */
#include "postgres.h"

#include "durable/load.h"

int
pgr_load_database(void)
{
	return 0;
}
