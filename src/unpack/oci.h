/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_UNPACK_OCI_H
#define NIDO_UNPACK_OCI_H

/*
 * What the JSON of an OCI image says: which image of an index, which layers, how its command is run
 * (OCI image-spec 1.1: image-index.md, manifest.md, config.md; Docker's names for the same are known).
 *
 * All of it is somebody else's. What an object is comes from the descriptor that leads to it, and one
 * that says otherwise of itself is refused.
 */

#include "base/error.h"
#include "unpack/digest.h"

#include <jansson.h>

#define OCI_TEXT_BYTES_MAX (4u << 20) /* of an index, manifest or configuration */
#define OCI_LAYERS_MAX     500u
#define OCI_INDEXES_MAX    8u /* that lead from one to the next */
#define OCI_WORDS_MAX      4096u

enum oci_kind { OCI_OTHER, OCI_INDEX, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER, OCI_LAYER_ELSEWHERE };

/* What names a blob, and is all that is known of it. */
struct oci_blob {
    enum oci_kind kind;
    char type[96]; /* media type, for errors; cut where it is longer */
    struct digest digest;
    uint64_t size_bytes;
};

struct oci_store {
    /* The blob's text, whose size and digest are right. The caller frees *text. */
    int (*read)(struct oci_store *store, const struct oci_blob *blob, char **text,
                size_t *text_bytes, struct nido_error *err);
};

/* Finds the manifest of the image with that tag, or of the only image ("": any), for Linux on
 * `architecture`, as Go calls it. `index` is the text of index.json. */
int oci_choose(struct oci_store *store, const char *index, size_t index_bytes, const char *tag,
               const char *architecture, struct oci_blob *manifest, struct nido_error *err);

struct oci_manifest {
    struct oci_blob config;
    unsigned layer_count;
    struct oci_blob layers[OCI_LAYERS_MAX]; /* the lowest first */
};

int oci_read_manifest(struct oci_store *store, const struct oci_blob *blob,
                      struct oci_manifest *manifest, struct nido_error *err);

/* What nido wants of the configuration, checked: lists of texts "entrypoint", "cmd" and "env", texts
 * "user" and "workdir", empty where the image has none. A new reference. */
int oci_read_config(struct oci_store *store, const struct oci_blob *blob, const char *architecture,
                    json_t **config, struct nido_error *err);

#endif
