/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_BASE_ERROR_H
#define NIDO_BASE_ERROR_H

/*
 * Host errors are values: a negative errno as the return value and one sentence in a struct that
 * the caller owns. The sentence names the object, the cause and the next step; each level on the
 * way up may put the object's name in front. Nothing in here allocates, so an error can always be
 * told.
 */

#include <nido/error.h>

#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Sets *err to `code` (a positive errno) and the sentence. `err` may be NULL. Returns -code. */
int error_set(struct nido_error *err, int code, const char *fmt, ...) PRINTF(3, 4);

/* Puts "PREFIX: " before the sentence that is there. Returns -err->code; -EINVAL when `err` is NULL,
 * so a caller that has no struct keeps the code that it has. */
int error_prefix(struct nido_error *err, const char *fmt, ...) PRINTF(2, 3);

/* As error_set, with ": " and the system's words for `code` at the end. */
int error_errno(struct nido_error *err, int code, const char *fmt, ...) PRINTF(3, 4);

#endif
