/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_TREE_H
#define NIDO_UNPACK_TREE_H

/*
 * The directory tree that archives, unpacked one over the other into one directory, would leave there;
 * nothing is unpacked for it. The archives say which file lies where; this says which of them are
 * there in the end, and by which names.
 *
 * Names are resolved as by a process whose root the tree is: nothing leads out of it, and a symbolic
 * link in the middle of a path is followed. Directories that are not in an archive are made. What
 * comes later wins; a directory that comes again keeps what is in it.
 *
 * Whiteouts (OCI image-spec, layer.md): .wh.NAME hides NAME of the archives before, .wh..wh..opq all
 * that they had in its directory. What the same archive brings is not hidden, wherever it stands.
 */

#include "base/error.h"
#include "unpack/member.h"

#include <stdbool.h>
#include <stdint.h>

#define TREE_PATH_BYTES 4096u
#define TREE_NAMES_MAX  (4u << 20)

/* All that is no directory: contents with one name or several. */
struct tree_item {
    unsigned layer;
    uint64_t ordinal;        /* which member of it */
    struct tree_node *names; /* NULL: it is gone */
    char *link;              /* of a symbolic link, where it leads; else NULL */
};

struct tree_node {
    struct tree_node *parent, *first, *last, *next, *previous; /* of a directory, what is in it */
    struct tree_node *bucket_next;
    struct tree_item *item;     /* NULL: a directory */
    struct tree_node *same;     /* the item's next name */
    struct tree_node **same_at; /* what points to this one among them */
    struct member *attributes;  /* of a directory; NULL: it was only named in paths */
    unsigned layer;             /* that brought it, or brought it again */
    unsigned depth_bytes;       /* length of its path */
    char name[];
};

struct tree;

int tree_create(struct tree **tree, struct nido_error *err);
void tree_destroy(struct tree *tree); /* takes NULL */

/* The member `ordinal` of archive `layer`; both only grow. `whiteouts`: those names are what they
 * mean. */
int tree_put(struct tree *tree, unsigned layer, uint64_t ordinal, const struct member *member,
             bool whiteouts, struct nido_error *err);

/* The items, in the order in which they came. */
const struct tree_item *tree_item(const struct tree *tree, uint64_t index); /* NULL: no more */

struct tree_node *tree_root(const struct tree *tree);
/* The next node, parents before what is in them; NULL: that was the last. */
const struct tree_node *tree_after(const struct tree_node *node);
const struct tree_node *tree_child(const struct tree *tree, const struct tree_node *directory,
                                   const char *name);
/* Takes "." and ".." out of an archive's path; what would lead out of the root ends there. */
int tree_clean(const char *path, char to[TREE_PATH_BYTES], struct nido_error *err);
/* From the root, without a slash in front; "" is the root. */
void tree_path(const struct tree_node *node, char path[TREE_PATH_BYTES]);

#endif
