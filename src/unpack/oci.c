/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/oci.h"

#include "base/checked.h"
#include "base/own.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define NAMES_BYTES 200u
#define REF_NAME    "org.opencontainers.image.ref.name"

static const struct {
    const char *type;
    enum oci_kind kind;
} types[] = {
    {"application/vnd.oci.image.index.v1+json", OCI_INDEX},
    {"application/vnd.docker.distribution.manifest.list.v2+json", OCI_INDEX},
    {"application/vnd.oci.image.manifest.v1+json", OCI_MANIFEST},
    {"application/vnd.docker.distribution.manifest.v2+json", OCI_MANIFEST},
    {"application/vnd.oci.image.config.v1+json", OCI_CONFIG},
    {"application/vnd.docker.container.image.v1+json", OCI_CONFIG},
    {"application/vnd.oci.image.layer.v1.tar", OCI_LAYER},
    {"application/vnd.oci.image.layer.v1.tar+gzip", OCI_LAYER},
    {"application/vnd.oci.image.layer.v1.tar+zstd", OCI_LAYER},
    {"application/vnd.docker.image.rootfs.diff.tar", OCI_LAYER},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", OCI_LAYER},
    {"application/vnd.docker.image.rootfs.diff.tar.zstd", OCI_LAYER}, /* BuildKit's */
    {"application/vnd.oci.image.layer.nondistributable.v1.tar", OCI_LAYER_ELSEWHERE},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", OCI_LAYER_ELSEWHERE},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", OCI_LAYER_ELSEWHERE},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar", OCI_LAYER_ELSEWHERE},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", OCI_LAYER_ELSEWHERE},
};

static enum oci_kind kind_of(const char *type)
{
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        if (strcmp(types[i].type, type) == 0)
            return types[i].kind;
    return OCI_OTHER;
}

/* ---- JSON ---- */

static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static int parse_object(const char *text, size_t text_bytes, json_t **object,
                        struct nido_error *err)
{
    json_error_t why;
    *object = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!*object)
        return error_set(err, EBADMSG, "this is no JSON: line %d: %.100s", why.line, why.text);
    if (json_is_object(*object))
        return 0;
    json_decref(*object);
    *object = NULL;
    return error_set(err, EBADMSG, "this is no JSON object");
}

static int parse_blob(const json_t *descriptor, struct oci_blob *blob, struct nido_error *err)
{
    const char *type = text_at(descriptor, "mediaType"), *digest = text_at(descriptor, "digest");
    const json_t *size = json_object_get(descriptor, "size");
    if (!type || !digest || !json_is_integer(size) || json_integer_value(size) < 0)
        return error_set(err, EBADMSG, "a descriptor has no mediaType, digest or size");
    *blob =
        (struct oci_blob){.kind = kind_of(type), .size_bytes = (uint64_t)json_integer_value(size)};
    snprintf(blob->type, sizeof(blob->type), "%s", type);
    return digest_parse(&blob->digest, digest, err);
}

static void free_object(json_t **object)
{
    json_decref(*object);
}

#define own_json __attribute__((cleanup(free_object)))

/* Reads what `blob` leads to. One that is two things at once was made to be read differently by
 * different programs (image-spec 1.0.2, CVE-2021-41190). */
static int read_object(struct oci_store *store, const struct oci_blob *blob, json_t **object,
                       struct nido_error *err)
{
    own_mem char *text = NULL;
    char digest[DIGEST_TEXT_BYTES];
    size_t text_bytes = 0;
    digest_print(&blob->digest, digest);
    int ret = store->read(store, blob, &text, &text_bytes, err);
    if (ret == 0)
        ret = parse_object(text, text_bytes, object, err);
    if (ret < 0)
        return error_prefix(err, "blob %s", digest);
    const char *type = text_at(*object, "mediaType");
    bool differs = type && kind_of(type) != blob->kind;
    bool is_both = json_object_get(*object, "manifests") &&
                   (json_object_get(*object, "layers") || json_object_get(*object, "config"));
    if (!differs && !is_both)
        return 0;
    json_decref(*object);
    *object = NULL;
    return error_set(err, EBADMSG, "blob %s: it is not what the descriptor calls it, %s", digest,
                     blob->type);
}

/* ---- which image ---- */

struct choice {
    const char *tag, *architecture;
    bool takes_first;         /* of several that would do */
    char others[NAMES_BYTES]; /* tags, or platforms, that are there */
    unsigned found;
    bool tag_is_there;
    struct oci_blob blob;
};

static void note(struct choice *choice, const char *fmt, ...) PRINTF(2, 3);

static void note(struct choice *choice, const char *fmt, ...)
{
    size_t at = strlen(choice->others), room = sizeof(choice->others) - at;
    va_list arguments;
    va_start(arguments, fmt);
    if (at && room > 4)
        at += (size_t)snprintf(choice->others + at, room, ", ");
    vsnprintf(choice->others + at, sizeof(choice->others) - at, fmt, arguments);
    va_end(arguments);
}

/* What says nothing of its platform is taken, and its configuration asked later. Variants that later
 * CPUs want are passed over. */
static bool fits_platform(struct choice *choice, const json_t *platform)
{
    const char *os = text_at(platform, "os"), *architecture = text_at(platform, "architecture");
    const char *variant = text_at(platform, "variant");
    if (!platform)
        return true;
    bool is_usual = !variant || strcmp(variant, "v1") == 0 || strcmp(variant, "v8") == 0;
    if (os && architecture && strcmp(os, "linux") == 0 &&
        strcmp(architecture, choice->architecture) == 0 && is_usual)
        return true;
    if (os && architecture && strcmp(os, "unknown") != 0)
        note(choice, "%.20s/%.20s%s%.20s", os, architecture, variant ? "/" : "",
             variant ? variant : "");
    return false;
}

static int consider(struct choice *choice, const json_t *descriptor, struct nido_error *err)
{
    const char *name = text_at(json_object_get(descriptor, "annotations"), REF_NAME);
    struct oci_blob blob;
    if (*choice->tag && (!name || strcmp(name, choice->tag) != 0)) {
        if (name)
            note(choice, "%.60s", name);
        return 0;
    }
    choice->tag_is_there = true;
    int ret = parse_blob(descriptor, &blob, err);
    if (ret < 0 || (blob.kind != OCI_INDEX && blob.kind != OCI_MANIFEST) ||
        !fits_platform(choice, json_object_get(descriptor, "platform")))
        return ret;
    if (choice->found && (choice->takes_first || digest_equal(&blob.digest, &choice->blob.digest)))
        return 0;
    if (!*choice->tag && !choice->takes_first)
        note(choice, "%.60s", name ? name : "one without a tag");
    if (choice->found++ == 0)
        choice->blob = blob;
    return 0;
}

static int choice_error(const struct choice *choice, struct nido_error *err)
{
    const char *others = choice->others[0] ? choice->others : "none";
    if (*choice->tag && !choice->tag_is_there)
        return error_set(err, ENOENT, "no image in it has the tag '%.100s'; the tags are: %s",
                         choice->tag, others);
    if (choice->found == 0)
        return error_set(err, ENOENT, "there is no image for linux/%s in it; there is: %s",
                         choice->architecture, others);
    if (*choice->tag)
        return error_set(err, EEXIST, "%u images in it have the tag '%.100s'", choice->found,
                         choice->tag);
    return error_set(err, EEXIST, "there are several images in it; say which: oci:DIR:TAG, of: %s",
                     others);
}

static int choose(struct choice *choice, const json_t *index, struct nido_error *err)
{
    const json_t *manifests = json_object_get(index, "manifests"), *descriptor;
    size_t i;
    int ret = 0;
    if (!json_is_array(manifests))
        return error_set(err, EBADMSG, "this is no index: it has no manifests");
    json_array_foreach(manifests, i, descriptor)
    {
        ret = consider(choice, descriptor, err);
        if (ret < 0)
            return ret;
    }
    return choice->found == 1 ? 0 : choice_error(choice, err);
}

int oci_choose(struct oci_store *store, const char *index, size_t index_bytes, const char *tag,
               const char *architecture, struct oci_blob *manifest, struct nido_error *err)
{
    struct choice choice = {.tag = tag, .architecture = architecture};
    own_json json_t *object = NULL;
    int ret = parse_object(index, index_bytes, &object, err);
    if (ret == 0)
        ret = choose(&choice, object, err);
    if (ret < 0)
        return error_prefix(err, "index.json");
    for (unsigned depth = 0; choice.blob.kind == OCI_INDEX; depth++) {
        own_json json_t *inner = NULL;
        const struct oci_blob blob = choice.blob;
        if (depth == OCI_INDEXES_MAX)
            return error_set(err, ELOOP, "more than %u indexes lead from one to the next",
                             OCI_INDEXES_MAX);
        ret = read_object(store, &blob, &inner, err);
        if (ret < 0)
            return ret;
        choice = (struct choice){.tag = "", .architecture = architecture, .takes_first = true};
        ret = choose(&choice, inner, err);
        if (ret < 0)
            return ret;
    }
    *manifest = choice.blob;
    return 0;
}

/* ---- the manifest ---- */

static int check_layer(const struct oci_blob *blob, size_t number, struct nido_error *err)
{
    if (blob->kind == OCI_LAYER_ELSEWHERE)
        return error_set(err, ENOTSUP,
                         "layer %zu is not part of the image but has to be fetched from elsewhere "
                         "(%s); nido does not",
                         number, blob->type);
    if (blob->kind != OCI_LAYER)
        return error_set(err, ENOTSUP, "layer %zu is of the type %s, which is no layer of a root",
                         number, blob->type);
    return 0;
}

static int take_layers(const json_t *layers, struct oci_manifest *manifest, struct nido_error *err)
{
    const json_t *descriptor;
    size_t i;
    if (!json_is_array(layers) || json_array_size(layers) == 0)
        return error_set(err, EBADMSG, "the manifest has no layers");
    if (json_array_size(layers) > OCI_LAYERS_MAX)
        return error_set(err, E2BIG, "it has %zu layers; nido takes %u", json_array_size(layers),
                         OCI_LAYERS_MAX);
    json_array_foreach(layers, i, descriptor)
    {
        int ret = parse_blob(descriptor, &manifest->layers[i], err);
        if (ret == 0)
            ret = check_layer(&manifest->layers[i], i + 1, err);
        if (ret < 0)
            return ret;
    }
    manifest->layer_count = (unsigned)json_array_size(layers);
    return 0;
}

int oci_read_manifest(struct oci_store *store, const struct oci_blob *blob,
                      struct oci_manifest *manifest, struct nido_error *err)
{
    own_json json_t *object = NULL;
    int ret = read_object(store, blob, &object, err);
    if (ret < 0)
        return ret;
    ret = parse_blob(json_object_get(object, "config"), &manifest->config, err);
    if (ret == 0 && manifest->config.kind != OCI_CONFIG)
        ret = error_set(err, ENOTSUP,
                        "it is no image of a root, but has a configuration of the type %s",
                        manifest->config.type);
    return ret < 0 ? ret : take_layers(json_object_get(object, "layers"), manifest, err);
}

/* ---- the configuration ---- */

static int copy_text(const json_t *from, const char *key, json_t *to, const char *name,
                     struct nido_error *err)
{
    const json_t *value = json_object_get(from, key);
    if (value && !json_is_null(value) && !json_is_string(value))
        return error_set(err, EBADMSG, "its %s is no text", key);
    const char *text = json_string_value(value);
    return json_object_set_new(to, name, json_string(text ? text : "")) == 0
               ? 0
               : error_set(err, ENOMEM, "out of memory");
}

/* Docker writes null where there is none. */
static int copy_texts(const json_t *from, const char *key, json_t *to, const char *name,
                      struct nido_error *err)
{
    const json_t *list = json_object_get(from, key), *value;
    json_t *copy = json_array();
    size_t i;
    if (!copy || json_object_set_new(to, name, copy) < 0)
        return error_set(err, ENOMEM, "out of memory");
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list) || json_array_size(list) > OCI_WORDS_MAX)
        return error_set(err, EBADMSG, "its %s is no list of up to %u texts", key, OCI_WORDS_MAX);
    json_array_foreach(list, i, value)
    {
        if (!json_is_string(value))
            return error_set(err, EBADMSG, "its %s has something that is no text", key);
        if (json_array_append_new(copy, json_string(json_string_value(value))) < 0)
            return error_set(err, ENOMEM, "out of memory");
    }
    return 0;
}

static int check_platform(const json_t *object, const char *architecture, struct nido_error *err)
{
    const char *os = text_at(object, "os"), *has = text_at(object, "architecture");
    if (!os || !has)
        return error_set(err, EBADMSG, "it does not say which os and architecture it is for");
    if (strcmp(os, "linux") == 0 && strcmp(has, architecture) == 0)
        return 0;
    return error_set(err, ENOEXEC, "the image is for %.30s/%.30s, and this host runs linux/%s", os,
                     has, architecture);
}

int oci_read_config(struct oci_store *store, const struct oci_blob *blob, const char *architecture,
                    json_t **out, struct nido_error *err)
{
    own_json json_t *object = NULL, *config = json_object();
    int ret =
        config ? read_object(store, blob, &object, err) : error_set(err, ENOMEM, "out of memory");
    if (ret < 0)
        return ret;
    ret = check_platform(object, architecture, err);
    const json_t *from = json_object_get(object, "config");
    if (ret == 0 && from && !json_is_null(from) && !json_is_object(from))
        ret = error_set(err, EBADMSG, "its config is no object");
    if (ret == 0)
        ret = copy_texts(from, "Entrypoint", config, "entrypoint", err);
    if (ret == 0)
        ret = copy_texts(from, "Cmd", config, "cmd", err);
    if (ret == 0)
        ret = copy_texts(from, "Env", config, "env", err);
    if (ret == 0)
        ret = copy_text(from, "User", config, "user", err);
    if (ret == 0)
        ret = copy_text(from, "WorkingDir", config, "workdir", err);
    if (ret < 0)
        return ret;
    *out = json_incref(config);
    return 0;
}
