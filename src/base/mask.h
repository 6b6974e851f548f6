/*
 * base/mask.h
 *	  Text from outside made fit for views, logs and messages (S-2).
 */
#ifndef PGR_BASE_MASK_H
#define PGR_BASE_MASK_H

/*
 * scheme://host/path, with "?..." in place of a query and without userinfo
 * and fragment, cut to size.
 */
extern void pgr_mask_url(char *dst, size_t size, const char *url);

/*
 * Replace what the URL keeps secret wherever it occurs in "text": its whole
 * query, and every value of it that is long enough to be a secret.
 */
extern void pgr_mask_secrets(char *text, const char *url);

/*
 * May the URL hold a secret?  In doubt, yes: a user name, a part of the path
 * or a value of the query that looks like a key, or a parameter that is called
 * like one.
 */
extern bool pgr_mask_url_has_secret(const char *url);

/*
 * Copy "len" bytes, cut to size, as printable ASCII: whatever is not becomes
 * a blank or a question mark.  A client of any encoding can then read it, and
 * it cannot break a log line.
 */
extern void pgr_mask_control(char *dst, size_t size, const char *src,
							 size_t len);

#endif /* PGR_BASE_MASK_H */
