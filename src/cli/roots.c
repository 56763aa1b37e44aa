/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/roots.h"

#include "base/log.h"
#include "base/own.h"
#include "cli/helper.h"
#include "cli/image_config.h"
#include "cli/job_flags.h"
#include "cli/root_cache.h"
#include "lib/root_image.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

/* Images that are made otherwise than these begin otherwise. */
#define FORMAT       "1-"
#define DIGEST_BYTES (ROOT_KEY_BYTES - sizeof(FORMAT))
#define NUMBER_BYTES 16u
#define ANSWER_BYTES 128u
#define CONFIG_BYTES (4u << 20)

/* Arguments of a program that does not write to them. */
#define WORDS(...) ((char *const *)(uintptr_t)(const char *const[]){__VA_ARGS__, NULL})

/* ---- an image of an archive ---- */

/* How the root directory looks, which a tar archive for sqfstar cannot say. */
struct attributes {
    char mode[NUMBER_BYTES], uid[NUMBER_BYTES], gid[NUMBER_BYTES], seconds[NUMBER_BYTES];
};

struct making {
    struct root_making image;
    struct helper unpack, write;
};

static int start_writing(struct making *making, const char *sqfstar, int stream_fd,
                         const struct attributes *root, struct nido_error *err)
{
    const int fds[HELPER_FDS] = {stream_fd, -1, -1, making->image.fd};
    /* lz4 is the quickest to pack and to read, and is in the kernels of distributions. */
    return helper_start(&making->write, sqfstar,
                        WORDS("sqfstar", "-quiet", "-no-progress", "-force", "-comp", "lz4",
                              "-root-mode", root->mode, "-root-uid", root->uid, "-root-gid",
                              root->gid, "-root-time", root->seconds, "/proc/self/fd/3"),
                        fds, true, err);
}

/* Connects the two. They have their ends of the pipes afterwards, and this process has none. */
static int start_both(struct making *making, const char *sqfstar, const char *unpack,
                      char *const argv[], struct nido_error *err)
{
    char answer[ANSWER_BYTES];
    struct attributes root;
    int answers[2], stream[2];
    if (pipe2(answers, O_CLOEXEC) < 0)
        return error_errno(err, errno, "no pipe can be made");
    own_fd int answers_end = answers[0], answers_begin = answers[1];
    if (pipe2(stream, O_CLOEXEC) < 0)
        return error_errno(err, errno, "no pipe can be made");
    own_fd int stream_end = stream[0], stream_begin = stream[1];
    const int fds[HELPER_FDS] = {-1, answers_begin, -1, stream_begin};
    int ret = helper_start(&making->unpack, unpack, argv, fds, true, err);
    close(own_take_fd(&answers_begin));
    close(own_take_fd(&stream_begin));
    if (ret == 0)
        ret = helper_read_answer(answers_end, answer, sizeof(answer), err);
    if (ret < 0)
        return ret;
    if (sscanf(answer, "%15s %15s %15s %15s", root.mode, root.uid, root.gid, root.seconds) != 4)
        return error_set(err, EPROTO, "nido-unpack gave no answer");
    return start_writing(making, sqfstar, stream_end, &root, err);
}

/* The one that failed first tells why: it has taken the other one along. */
static int wait_for_both(struct making *making, int started, struct nido_error *err)
{
    bool unpacked = helper_succeeds(&making->unpack), written = helper_succeeds(&making->write);
    bool gave_up = making->unpack.killed && making->unpack.status == SIGPIPE;
    if (!unpacked && (!gave_up || written))
        return helper_error(&making->unpack, err);
    if (started < 0 || written)
        return started;
    helper_error(&making->write, err);
    return error_prefix(err, "its image cannot be written; XDG_CACHE_HOME says where it goes");
}

/* `argv` is nido-unpack's. */
static int make_image(const struct root_cache *cache, const char *key, char *const argv[],
                      char path[PATH_MAX], struct nido_error *err)
{
    char unpack[PATH_MAX], sqfstar[PATH_MAX];
    struct making making = {.image.fd = -1};
    int ret = helper_find_unpack(unpack, err);
    if (ret == 0)
        ret = helper_find("sqfstar", "squashfs-tools", sqfstar, err);
    if (ret == 0)
        ret = root_cache_begin(cache, &making.image, err);
    if (ret < 0)
        return ret;
    ret = start_both(&making, sqfstar, unpack, argv, err);
    if (making.unpack.pid)
        ret = wait_for_both(&making, ret, err);
    if (ret == 0)
        ret = root_cache_keep(cache, &making.image, key, path, err);
    root_cache_end(cache, &making.image);
    return ret;
}

/* "sha256:..." as the name of what is made of it. */
static void key_of(const char *digest, char key[ROOT_KEY_BYTES])
{
    snprintf(key, ROOT_KEY_BYTES, FORMAT "%.*s", (int)DIGEST_BYTES - 1, digest);
    for (char *at = key; *at; at++)
        if (*at == ':' || *at == '/')
            *at = '-';
}

static void log_made(const struct job_flags *flags)
{
    log_info("root %s: an image of it is kept as %s", flags->root, flags->made.path);
}

/* ---- tar archives ---- */

static int make_tar(const struct root_cache *cache, struct job_flags *flags, struct nido_error *err)
{
    char unpack[PATH_MAX], digest[DIGEST_BYTES], key[ROOT_KEY_BYTES];
    struct stat st;
    if (stat(flags->root, &st) < 0)
        return error_errno(err, errno, "cannot be opened");
    if (root_cache_recall(cache, &st, key) && root_cache_find(cache, key, flags->made.path))
        return 0;
    int ret = helper_find_unpack(unpack, err);
    if (ret == 0)
        ret = helper_ask(unpack, WORDS("nido-unpack", "digest", flags->root), digest,
                         sizeof(digest), err);
    if (ret < 0)
        return ret;
    digest[strcspn(digest, "\n")] = '\0';
    key_of(digest, key);
    if (!root_cache_find(cache, key, flags->made.path)) {
        ret = make_image(cache, key, WORDS("nido-unpack", "tar", flags->root, digest),
                         flags->made.path, err);
        if (ret < 0)
            return ret;
        log_made(flags);
    }
    root_cache_remember(cache, &st, key);
    return 0;
}

/* ---- OCI images ---- */

/* DIR:TAG at its first colon, as tags may have some, unless it all is a directory. */
static char *split_tag(char *directory)
{
    char *colon = strchr(directory, ':');
    if (access(directory, F_OK) == 0 || !colon)
        return directory + strlen(directory);
    *colon = '\0';
    return colon + 1;
}

static int ask_image(const char *unpack, const char *directory, const char *tag, json_t **config,
                     struct nido_error *err)
{
    own_mem char *answer = malloc(CONFIG_BYTES);
    if (!answer)
        return error_set(err, ENOMEM, "out of memory");
    int ret = helper_ask(unpack, WORDS("nido-unpack", "image", directory, tag), answer,
                         CONFIG_BYTES, err);
    if (ret < 0)
        return ret;
    *config = json_loads(answer, 0, NULL);
    return *config ? 0 : error_set(err, EPROTO, "nido-unpack gave no answer");
}

static int make_oci(const struct root_cache *cache, struct job_flags *flags, struct nido_error *err)
{
    char unpack[PATH_MAX], key[ROOT_KEY_BYTES];
    json_t *config = NULL;
    own_mem char *directory = strdup(flags->root + strlen(JOB_OCI));
    int ret = directory ? helper_find_unpack(unpack, err) : error_set(err, ENOMEM, "out of memory");
    if (ret < 0)
        return ret;
    const char *tag = split_tag(directory);
    ret = ask_image(unpack, directory, tag, &config, err);
    if (ret == 0)
        ret = image_config_apply(flags, config, err);
    const char *manifest = json_string_value(json_object_get(config, "manifest"));
    if (ret == 0 && !manifest)
        ret = error_set(err, EPROTO, "nido-unpack gave no answer");
    if (ret < 0)
        return ret;
    key_of(manifest, key);
    if (root_cache_find(cache, key, flags->made.path))
        return 0;
    ret = make_image(cache, key, WORDS("nido-unpack", "layers", directory, manifest),
                     flags->made.path, err);
    if (ret == 0)
        log_made(flags);
    return ret;
}

/* ---- any root ---- */

static int prepare(struct job_flags *flags, struct nido_error *err)
{
    own_root_cache struct root_cache cache = {.directory_fd = -1};
    struct root_image image;
    bool is_oci = job_root_is_oci(flags->root);
    int ret = is_oci ? 0 : root_image_recognise(flags->root, &image, err);
    if (ret < 0 || (!is_oci && image.kind != ROOT_TAR))
        return ret;
    if (flags->write)
        return error_set(err, EROFS, "archives and images are only read; leave out --write");
    ret = root_cache_open(&cache, err);
    if (ret == 0)
        ret = is_oci ? make_oci(&cache, flags, err) : make_tar(&cache, flags, err);
    if (ret == 0)
        flags->root = flags->made.path;
    return ret;
}

int roots_prepare(struct job_flags *flags, struct nido_error *err)
{
    const char *named = flags->root;
    if (!named)
        return 0;
    return prepare(flags, err) < 0 ? error_prefix(err, "--root %s", named) : 0;
}
