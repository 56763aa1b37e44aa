/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON of an image that anybody may have made: index.json, then the blobs, in the order in which they
 * are asked for, round and round. Their digests are not looked at, so that indexes can lead to
 * themselves. The first byte says what the rest of the input is:
 *   0     these texts, with a zero byte between them
 *   else  how to make some that are well-formed, of the words that matter
 *
 * Passes when no sanitizer objects, every refusal has a sentence, and what is accepted has the form that
 * it was promised in.
 */
#include "unpack/oci.h"

#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOBS_MAX 8u

struct texts {
    struct oci_store store;
    const char *texts[BLOBS_MAX + 1];
    size_t lengths[BLOBS_MAX + 1];
    unsigned count, next;
};

static int read_text(struct oci_store *store, const struct oci_blob *blob, char **text,
                     size_t *text_bytes, struct nido_error *err)
{
    struct texts *texts = (struct texts *)store;
    if (texts->count < 2)
        return error_set(err, 2, "there is none");
    unsigned at = 1 + texts->next++ % (texts->count - 1);
    PROMISE(texts->next < 100);
    *text_bytes = texts->lengths[at];
    *text = malloc(*text_bytes + 1);
    memcpy(*text, texts->texts[at], *text_bytes);
    return 0;
}

/* ---- texts made of bytes ---- */

static const char *const keys[] = {"manifests",
                                   "layers",
                                   "config",
                                   "mediaType",
                                   "digest",
                                   "size",
                                   "os",
                                   "architecture",
                                   "platform",
                                   "annotations",
                                   "variant",
                                   "Env",
                                   "Cmd",
                                   "Entrypoint",
                                   "User",
                                   "WorkingDir",
                                   "org.opencontainers.image.ref.name"};
#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
static const char *const values[] = {
    "\"application/vnd.oci.image.index.v1+json\"",
    "\"application/vnd.oci.image.manifest.v1+json\"",
    "\"application/vnd.oci.image.config.v1+json\"",
    "\"application/vnd.oci.image.layer.v1.tar+gzip\"",
    "\"application/vnd.docker.image.rootfs.foreign.diff.tar\"",
    "\"sha256:" DIGEST "\"",
    "\"sha256:" DIGEST "0\"",
    "\"sha512:" DIGEST DIGEST "\"",
    "\"linux\"",
    "\"amd64\"",
    "\"t\"",
    "\"A=b\"",
    "9223372036854775807",
    "-1",
    "1.5",
    "null",
};
/* Descriptors are long, and every way into the deep begins with one. */
static const char *const whole[] = {
    "{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":\"sha256:" DIGEST
    "\",\"size\":1}",
    "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:" DIGEST
    "\",\"size\":1}",
    "{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:" DIGEST
    "\",\"size\":1}",
    "{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:" DIGEST
    "\",\"size\":1}",
};

static void put_value(FILE *to, struct input *input, unsigned depth)
{
    uint8_t kind = input_byte(input);
    unsigned count = kind % 8u;
    if (kind < 64 || depth > 4) {
        fputs(values[kind % (sizeof(values) / sizeof(values[0]))], to);
    } else if (kind < 128) {
        fputs(whole[kind % (sizeof(whole) / sizeof(whole[0]))], to);
    } else if (kind < 192) {
        putc('[', to);
        for (unsigned i = 0; i < count; i++) {
            fputs(i ? "," : "", to);
            put_value(to, input, depth + 1);
        }
        putc(']', to);
    } else {
        putc('{', to);
        for (unsigned i = 0; i < count; i++) {
            fprintf(to, "%s\"%s\":", i ? "," : "",
                    keys[input_byte(input) % (sizeof(keys) / sizeof(keys[0]))]);
            put_value(to, input, depth + 1);
        }
        putc('}', to);
    }
}

/* The caller frees it. */
static char *make_texts(struct input *input, size_t *length)
{
    char *text = NULL;
    FILE *to = open_memstream(&text, length);
    for (unsigned i = 0; to && input->left && i < BLOBS_MAX; i++) {
        if (i)
            putc('\0', to);
        put_value(to, input, 0);
    }
    PROMISE(to && fclose(to) == 0);
    return text;
}

static void cut(struct texts *texts, const char *text, size_t size)
{
    while (texts->count <= BLOBS_MAX) {
        const char *end = size ? memchr(text, 0, size) : NULL;
        size_t length = end ? (size_t)(end - text) : size;
        texts->texts[texts->count] = text;
        texts->lengths[texts->count++] = length;
        if (!end)
            return;
        text += length + 1;
        size -= length + 1;
    }
}

static void check_config(json_t *config)
{
    static const char *const lists[] = {"entrypoint", "cmd", "env"};
    for (unsigned i = 0; i < 3; i++) {
        const json_t *list = json_object_get(config, lists[i]), *text;
        size_t at;
        PROMISE(json_is_array(list));
        json_array_foreach(list, at, text) PROMISE(json_is_string(text));
    }
    PROMISE(json_is_string(json_object_get(config, "user")) &&
            json_is_string(json_object_get(config, "workdir")));
    json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct texts texts = {.store.read = read_text};
    struct nido_error err = {0};
    struct oci_blob blob;
    struct oci_manifest *manifest = calloc(1, sizeof(*manifest));
    json_t *config = NULL;
    struct input input = {data, size};
    size_t length = size;
    char *made = input_byte(&input) ? make_texts(&input, &length) : NULL;
    cut(&texts, made ? made : (const char *)input.at, made ? length : input.left);
    const char *tag = size % 2 ? "t" : "";
    int ret = oci_choose(&texts.store, texts.texts[0], texts.lengths[0], tag, "amd64", &blob, &err);
    PROMISE(ret < 0 || blob.kind == OCI_MANIFEST);
    if (ret == 0)
        ret = oci_read_manifest(&texts.store, &blob, manifest, &err);
    PROMISE(ret < 0 || (manifest->layer_count >= 1 && manifest->layer_count <= OCI_LAYERS_MAX &&
                        manifest->config.kind == OCI_CONFIG));
    if (ret == 0)
        ret = oci_read_config(&texts.store, &manifest->config, "amd64", &config, &err);
    if (ret == 0)
        check_config(config);
    PROMISE(ret == 0 || (err.code && err.text[0]));
    free(manifest);
    free(made);
    return 0;
}
