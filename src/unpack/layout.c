/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/layout.h"

#include "base/checked.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

const char *layout_architecture(void)
{
    static struct utsname host;
    uname(&host);
    if (strcmp(host.machine, "x86_64") == 0)
        return "amd64";
    return strcmp(host.machine, "aarch64") == 0 ? "arm64" : host.machine;
}

/* ---- files ---- */

/* A whole file, which must not be long, with a zero behind it. */
static int read_text(struct source *source, char **text, size_t *text_bytes, struct nido_error *err)
{
    if (source->size_bytes > OCI_TEXT_BYTES_MAX)
        return error_set(err, EFBIG, "it is longer than %u MiB", OCI_TEXT_BYTES_MAX >> 20);
    *text_bytes = (size_t)source->size_bytes;
    *text = malloc(*text_bytes + 1);
    if (!*text)
        return error_set(err, ENOMEM, "out of memory");
    ssize_t n = pread(source->fd, *text, *text_bytes, 0);
    if (n != (ssize_t)*text_bytes)
        return error_errno(err, n < 0 ? errno : EIO, "it cannot be read");
    (*text)[n] = '\0';
    return 0;
}

static int read_file(const struct layout *layout, const char *name, char **text, size_t *text_bytes,
                     struct nido_error *err)
{
    own_source struct source source = {.fd = -1};
    int ret = source_open(&source, layout->fd, name, err);
    if (ret == 0)
        ret = read_text(&source, text, text_bytes, err);
    return ret < 0 ? error_prefix(err, "%s", name) : 0;
}

/* ---- blobs ---- */

/* The digest was parsed, so it is no path that leads elsewhere. */
static void blob_path(const struct oci_blob *blob, char path[DIGEST_TEXT_BYTES + 8])
{
    char digest[DIGEST_TEXT_BYTES];
    digest_print(&blob->digest, digest);
    *strchr(digest, ':') = '/';
    snprintf(path, DIGEST_TEXT_BYTES + 8, "blobs/%s", digest);
}

static int open_blob(const struct layout *layout, const struct oci_blob *blob,
                     struct source *source, struct nido_error *err)
{
    char path[DIGEST_TEXT_BYTES + 8];
    blob_path(blob, path);
    int ret = source_open(source, layout->fd, path, err);
    if (ret < 0)
        return ret;
    if (source->size_bytes == blob->size_bytes)
        return 0;
    return error_set(err, EBADMSG, "it has %llu bytes, and should have %llu",
                     (unsigned long long)source->size_bytes, (unsigned long long)blob->size_bytes);
}

static int check_digest(const struct digest *expected, const struct digest *found,
                        struct nido_error *err)
{
    char text[DIGEST_TEXT_BYTES];
    if (digest_equal(expected, found))
        return 0;
    digest_print(found, text);
    return error_set(err, EBADMSG, "it is damaged: what is in it has the digest %s", text);
}

/* The bytes that were checked are those that are used. */
static int read_blob(struct oci_store *store, const struct oci_blob *blob, char **text,
                     size_t *text_bytes, struct nido_error *err)
{
    own_source struct source source = {.fd = -1};
    struct hasher hasher;
    struct digest found;
    int ret = open_blob(container_of(store, struct layout, store), blob, &source, err);
    if (ret == 0)
        ret = read_text(&source, text, text_bytes, err);
    if (ret < 0)
        return ret;
    hasher_begin(&hasher, blob->digest.kind);
    hasher_add(&hasher, *text, *text_bytes);
    hasher_end(&hasher, &found);
    return check_digest(&blob->digest, &found, err);
}

/* ---- the layout ---- */

static int check_version(const struct layout *layout, struct nido_error *err)
{
    own_mem char *text = NULL;
    size_t text_bytes;
    json_error_t why;
    int ret = read_file(layout, "oci-layout", &text, &text_bytes, err);
    if (ret < 0)
        return error_prefix(err, "this is no OCI image layout");
    json_t *object = json_loadb(text, text_bytes, 0, &why);
    const char *version = json_string_value(json_object_get(object, "imageLayoutVersion"));
    if (!version || strncmp(version, "1.", 2) != 0)
        ret = error_set(err, EINVAL, "oci-layout: this is no OCI image layout of version 1");
    json_decref(object);
    return ret;
}

int layout_open(struct layout *layout, const char *path, struct nido_error *err)
{
    *layout = (struct layout){.store.read = read_blob,
                              .fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (layout->fd < 0)
        return error_errno(err, errno, "the directory %s cannot be opened", path);
    return check_version(layout, err);
}

void layout_close(struct layout *layout)
{
    if (layout->fd >= 0)
        close(layout->fd);
    layout->fd = -1;
}

int layout_find(struct layout *layout, const char *tag, struct oci_blob *manifest,
                struct nido_error *err)
{
    own_mem char *index = NULL;
    size_t index_bytes;
    int ret = read_file(layout, "index.json", &index, &index_bytes, err);
    return ret < 0 ? ret
                   : oci_choose(&layout->store, index, index_bytes, tag, layout_architecture(),
                                manifest, err);
}

int layout_find_manifest(struct layout *layout, const char *digest, struct oci_blob *manifest,
                         struct nido_error *err)
{
    struct stat st;
    char path[DIGEST_TEXT_BYTES + 8];
    *manifest = (struct oci_blob){.kind = OCI_MANIFEST, .type = "a manifest"};
    int ret = digest_parse(&manifest->digest, digest, err);
    if (ret < 0)
        return ret;
    blob_path(manifest, path);
    if (fstatat(layout->fd, path, &st, 0) < 0)
        return error_errno(err, errno, "%s: cannot be opened", path);
    manifest->size_bytes = (uint64_t)st.st_size;
    return 0;
}

static int open_layer(const struct layout *layout, const struct oci_blob *blob,
                      struct merge_layer *layer, struct nido_error *err)
{
    struct digest found;
    layer->digest = blob->digest;
    int ret = open_blob(layout, blob, &layer->source, err);
    if (ret == 0)
        ret = source_digest(&layer->source, blob->digest.kind, &found, err);
    if (ret == 0)
        ret = check_digest(&blob->digest, &found, err);
    return ret < 0 ? error_prefix(err, "%s", layer->name) : 0;
}

int layout_open_layers(struct layout *layout, const struct oci_blob *blob, struct merge *merge,
                       struct nido_error *err)
{
    own_mem struct oci_manifest *manifest = calloc(1, sizeof(*manifest));
    int ret = manifest ? oci_read_manifest(&layout->store, blob, manifest, err)
                       : error_set(err, ENOMEM, "out of memory");
    if (ret < 0)
        return ret;
    merge->layers = calloc(manifest->layer_count, sizeof(*merge->layers));
    if (!merge->layers)
        return error_set(err, ENOMEM, "out of memory");
    for (; ret == 0 && merge->layer_count < manifest->layer_count; merge->layer_count++) {
        struct merge_layer *layer = &merge->layers[merge->layer_count];
        const struct oci_blob *from = &manifest->layers[merge->layer_count];
        char digest[DIGEST_TEXT_BYTES];
        digest_print(&from->digest, digest);
        layer->source.fd = -1;
        snprintf(layer->name, sizeof(layer->name), "layer %u (%.72s)", merge->layer_count + 1,
                 digest);
        ret = open_layer(layout, from, layer, err);
    }
    return ret;
}
