/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_UNIT_SHARE_BENCH_H
#define NIDO_TESTS_UNIT_SHARE_BENCH_H

/* A share of the directory `shared`, which lies alone in a directory of the test's own: made by
 * share_set_up(), gone with share_tear_down(). */

#include "host/share.h"

#include "cmocka_nido.h"

extern struct share *share;
extern char share_directory[80]; /* its path */
extern const struct share_owner nobody;

int share_set_up(void **state);
int share_tear_down(void **state);
void share_may_open_all_it_can(void); /* the process: as many descriptors as it is allowed */

/* Names are below the test's own directory: "shared/file". */
const char *share_path(const char *name); /* until the next call but 3 */
void share_host_file(const char *name, const char *text);

/* As `share`, anew. */
int share_open_it(const char *name, bool read_only, struct nido_error *err);
void share_open_with(unsigned descriptors_max, unsigned nodes_max);

uint64_t share_find_node(uint64_t directory, const char *name); /* it must be there */

#endif
