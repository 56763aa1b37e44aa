/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_MERGE_H
#define NIDO_UNPACK_MERGE_H

/*
 * One tar archive made of several that lie over each other, as the layers of an image do; or of one,
 * with each name once, and directories before what is in them.
 *
 * The archives are read twice: once for their names, once for the contents of what is left. Between
 * the two, only names are in memory.
 */

#include "base/error.h"
#include "unpack/digest.h"
#include "unpack/source.h"
#include "unpack/tree.h"

/* What comes out in all at most, contents and headers: more than a disk holds is no root. */
#define MERGE_BYTES_MAX (1ull << 40)

struct merge_layer {
    struct source source;
    struct digest digest; /* of the source */
    char name[96];        /* for errors; may be empty */
};

struct merge {
    struct tree *tree;
    struct merge_layer *layers;
    unsigned layer_count;
};

/* Reads the names. `are_layers`: of an OCI image, whose whiteouts are what they mean. */
int merge_names(struct merge *merge, bool are_layers, struct nido_error *err);
/* Writes all but the root directory itself to `fd`; checks every digest on the way. */
int merge_write(struct merge *merge, int fd, struct nido_error *err);
/* Its attributes: of what no archive names, those that a directory usually has. */
struct member merge_attributes(const struct tree_node *directory);
void merge_finish(struct merge *merge); /* the layers too */

#endif
