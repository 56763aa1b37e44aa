/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_LAYOUT_H
#define NIDO_UNPACK_LAYOUT_H

/* A directory that holds images (OCI image-spec, image-layout.md): oci-layout, index.json, and blobs named
 * after their digests. Nothing of a blob is used before its size and digest have been found right. */

#include "unpack/merge.h"
#include "unpack/oci.h"

struct layout {
    struct oci_store store;
    int fd;
};

/* -EINVAL: it is no layout. */
int layout_open(struct layout *layout, const char *path, struct nido_error *err);
void layout_close(struct layout *layout);

#define own_layout __attribute__((cleanup(layout_close)))

/* Finds the image with that tag ("": the only one) for this host. */
int layout_find(struct layout *layout, const char *tag, struct oci_blob *manifest,
                struct nido_error *err);

/* One whose digest is known from there. */
int layout_find_manifest(struct layout *layout, const char *digest, struct oci_blob *manifest,
                         struct nido_error *err);

/* Opens and checks the layers of a manifest; *merge owns them, and is to be finished in any case. */
int layout_open_layers(struct layout *layout, const struct oci_blob *manifest, struct merge *merge,
                       struct nido_error *err);

/* This host's, as Go calls it. */
const char *layout_architecture(void);

#endif
