/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/merge.h"

#include "base/own.h"
#include "unpack/tar_out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void name_layer(const struct merge_layer *layer, struct nido_error *err)
{
    if (layer->name[0])
        error_prefix(err, "%s", layer->name);
}

static int read_names(struct merge *merge, unsigned layer, bool are_layers, struct nido_error *err)
{
    struct source *source = &merge->layers[layer].source;
    struct member member;
    int ret = source_begin(source, false, DIGEST_SHA256, err), got = 1;
    for (uint64_t ordinal = 0; ret == 0; ordinal++) {
        got = source_next(source, &member, err);
        if (got <= 0)
            break;
        ret = tree_put(merge->tree, layer, ordinal, &member, are_layers, err);
    }
    if (ret == 0)
        ret = got;
    return ret < 0 ? ret : source_end(source, NULL, !are_layers, err);
}

int merge_names(struct merge *merge, bool are_layers, struct nido_error *err)
{
    int ret = tree_create(&merge->tree, err);
    for (unsigned i = 0; ret == 0 && i < merge->layer_count; i++) {
        ret = read_names(merge, i, are_layers, err);
        if (ret < 0)
            name_layer(&merge->layers[i], err);
    }
    return ret;
}

struct member merge_attributes(const struct tree_node *directory)
{
    if (directory->attributes)
        return *directory->attributes;
    return (struct member){.mode = S_IFDIR | 0755};
}

/* ---- writing ---- */

struct writer {
    struct merge *merge;
    struct tar_out *out;
    uint64_t next_item; /* of those that the layers before have not had */
    uint64_t written_bytes;
};

static int write_directories(struct writer *writer, struct nido_error *err)
{
    char path[TREE_PATH_BYTES];
    int ret = 0;
    for (const struct tree_node *node = tree_after(tree_root(writer->merge->tree));
         ret == 0 && node; node = tree_after(node)) {
        if (node->item)
            continue;
        struct member member = merge_attributes(node);
        tree_path(node, path);
        ret = tar_out_member(writer->out, path, &member, err);
    }
    return ret;
}

static int write_contents(struct writer *writer, struct source *source, const struct member *member,
                          struct nido_error *err)
{
    const void *bytes;
    size_t count;
    if (!S_ISREG(member->mode))
        return 0;
    for (;;) {
        int ret = source_data(source, member, &bytes, &count, err);
        if (ret < 0 || count == 0)
            return ret;
        ret = tar_out_data(writer->out, bytes, count, err);
        if (ret < 0)
            return ret;
    }
}

/* By its first name; the others are hard links to that. */
static int write_item(struct writer *writer, struct source *source, const struct tree_item *item,
                      const struct member *member, struct nido_error *err)
{
    char first[TREE_PATH_BYTES], path[TREE_PATH_BYTES];
    writer->written_bytes += member->size_bytes;
    if (member->size_bytes > MERGE_BYTES_MAX || writer->written_bytes > MERGE_BYTES_MAX)
        return error_set(err, EFBIG, "what is in it is larger than %llu GiB",
                         MERGE_BYTES_MAX >> 30);
    tree_path(item->names, first);
    int ret = tar_out_member(writer->out, first, member, err);
    if (ret == 0)
        ret = write_contents(writer, source, member, err);
    for (const struct tree_node *name = item->names->same; ret == 0 && name; name = name->same) {
        tree_path(name, path);
        ret = tar_out_hard_link(writer->out, path, first, member, err);
    }
    return ret;
}

static const struct tree_item *item_of(struct writer *writer, unsigned layer, uint64_t ordinal)
{
    const struct tree_item *item = tree_item(writer->merge->tree, writer->next_item);
    if (!item || item->layer != layer || item->ordinal != ordinal)
        return NULL;
    writer->next_item++;
    return item;
}

static int write_layer(struct writer *writer, unsigned layer, struct nido_error *err)
{
    struct merge_layer *from = &writer->merge->layers[layer];
    struct member member;
    int ret = source_begin(&from->source, true, from->digest.kind, err);
    for (uint64_t ordinal = 0; ret == 0; ordinal++) {
        ret = source_next(&from->source, &member, err);
        if (ret <= 0)
            break;
        const struct tree_item *item = item_of(writer, layer, ordinal);
        ret = item && item->names ? write_item(writer, &from->source, item, &member, err) : 0;
    }
    if (ret == 0)
        ret = source_end(&from->source, &from->digest, false, err);
    if (ret < 0)
        name_layer(from, err);
    return ret;
}

int merge_write(struct merge *merge, int fd, struct nido_error *err)
{
    own_mem struct tar_out *out = malloc(sizeof(*out));
    struct writer writer = {.merge = merge, .out = out};
    if (!out)
        return error_set(err, ENOMEM, "out of memory");
    tar_out_begin(out, fd);
    int ret = write_directories(&writer, err);
    for (unsigned i = 0; ret == 0 && i < merge->layer_count; i++)
        ret = write_layer(&writer, i, err);
    return ret < 0 ? ret : tar_out_end(out, err);
}

void merge_finish(struct merge *merge)
{
    tree_destroy(merge->tree);
    for (unsigned i = 0; i < merge->layer_count; i++)
        source_close(&merge->layers[i].source);
    free(merge->layers);
    *merge = (struct merge){0};
}
