/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nido-unpack: reads the archives that nido is given, in a process of its own. Nobody knows who made
 * them, the code that unpacks them is large and not ours, and every other start of nido should not pay
 * for it. nido starts it; it is nothing that a person would type.
 *
 *   nido-unpack digest FILE         prints the content's digest
 *   nido-unpack tar FILE DIGEST     prints the root directory's "MODE UID GID SECONDS", then writes all that is in
 *                                   it to descriptor 3, as one tar archive with each name once
 *   nido-unpack image DIR TAG       prints the manifest's digest and the configuration of an OCI image, as JSON; TAG may
 *                                   be empty
 *   nido-unpack layers DIR DIGEST   the layers of that manifest, as "tar" does
 *
 *   nido-unpack package FILE...     takes the kernel and modules out of Debian packages, prints the directory that they
 *                                   are in and the version, and removes that directory when its standard input ends
 *
 * An answer goes to standard output, and is whole once that is closed; a failure is one sentence on
 * standard error, and exit status 1.
 */
#include "base/own.h"
#include "unpack/jail.h"
#include "unpack/layout.h"
#include "unpack/merge.h"
#include "unpack/package.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STREAM_FD    3
#define AT_LEAST_ONE (-1)

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};

/* So that whoever waits for the answer has it. */
static int end_answer(struct nido_error *err)
{
    if (fflush(stdout) != 0 || fclose(stdout) != 0)
        return error_errno(err, errno, "the answer cannot be handed on");
    return 0;
}

static int write_root(struct merge *merge, struct nido_error *err)
{
    const struct member root = merge_attributes(tree_root(merge->tree));
    printf("%o %u %u %u\n", root.mode & 07777, root.uid, root.gid, root.mtime_s);
    int ret = end_answer(err);
    return ret < 0 ? ret : merge_write(merge, STREAM_FD, err);
}

/* ---- tar archives ---- */

static int digest(char **words, struct nido_error *err)
{
    own_source struct source source = {.fd = -1};
    struct digest digest;
    char text[DIGEST_TEXT_BYTES];
    int ret = source_open(&source, AT_FDCWD, words[0], err);
    if (ret == 0)
        ret = source_digest(&source, DIGEST_SHA256, &digest, err);
    if (ret < 0)
        return ret;
    digest_print(&digest, text);
    puts(text);
    return end_answer(err);
}

/* Images of containers come in archives as well, and are no roots as they stand. */
static int check_is_root(const struct tree *tree, struct nido_error *err)
{
    const struct tree_node *root = tree_root(tree);
    if (tree_child(tree, root, "oci-layout") && tree_child(tree, root, "index.json"))
        return error_set(err, EINVAL,
                         "this is an OCI image in a tar archive; unpack it into a directory, and "
                         "say --root oci:DIRECTORY");
    if (tree_child(tree, root, "manifest.json") && !tree_child(tree, root, "bin"))
        return error_set(err, EINVAL,
                         "this looks like what 'docker save' writes; make an OCI image of it: "
                         "skopeo copy docker-archive:FILE oci:DIRECTORY");
    return root->first ? 0 : error_set(err, EINVAL, "there is nothing in it");
}

static int tar(char **words, struct nido_error *err)
{
    struct merge merge = {.layers = calloc(1, sizeof(*merge.layers)), .layer_count = 1};
    if (!merge.layers)
        return error_set(err, ENOMEM, "out of memory");
    struct merge_layer *layer = merge.layers;
    layer->source.fd = -1;
    int ret = digest_parse(&layer->digest, words[1], err);
    if (ret == 0)
        ret = source_open(&layer->source, AT_FDCWD, words[0], err);
    if (ret == 0)
        ret = merge_names(&merge, false, err);
    if (ret == 0)
        ret = check_is_root(merge.tree, err);
    if (ret == 0)
        ret = write_root(&merge, err);
    merge_finish(&merge);
    return ret;
}

/* ---- OCI images ---- */

static int print_image(const struct oci_blob *manifest, json_t *config, struct nido_error *err)
{
    char digest[DIGEST_TEXT_BYTES];
    digest_print(&manifest->digest, digest);
    if (json_object_set_new(config, "manifest", json_string(digest)) < 0 ||
        json_dumpf(config, stdout, JSON_COMPACT) < 0)
        return error_set(err, EIO, "the answer cannot be handed on");
    return end_answer(err);
}

static int image(char **words, struct nido_error *err)
{
    own_layout struct layout layout = {.fd = -1};
    own_mem struct oci_manifest *manifest = malloc(sizeof(*manifest));
    struct oci_blob blob;
    json_t *config = NULL;
    int ret =
        manifest ? layout_open(&layout, words[0], err) : error_set(err, ENOMEM, "out of memory");
    if (ret == 0)
        ret = layout_find(&layout, words[1], &blob, err);
    if (ret == 0)
        ret = oci_read_manifest(&layout.store, &blob, manifest, err);
    if (ret == 0)
        ret =
            oci_read_config(&layout.store, &manifest->config, layout_architecture(), &config, err);
    if (ret == 0)
        ret = print_image(&blob, config, err);
    json_decref(config);
    return ret;
}

static int layers(char **words, struct nido_error *err)
{
    own_layout struct layout layout = {.fd = -1};
    struct oci_blob blob;
    struct merge merge = {0};
    int ret = layout_open(&layout, words[0], err);
    if (ret == 0)
        ret = layout_find_manifest(&layout, words[1], &blob, err);
    if (ret == 0)
        ret = layout_open_layers(&layout, &blob, &merge, err);
    if (ret == 0)
        ret = merge_names(&merge, true, err);
    if (ret == 0)
        ret = write_root(&merge, err);
    merge_finish(&merge);
    return ret;
}

/* ---- Debian packages ---- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    return unlinkat(AT_FDCWD, path, kind == FTW_DP || kind == FTW_D ? AT_REMOVEDIR : 0);
}

/* What is unpacked is there until the other end of standard input is closed, by whoever has asked, or by
 * his death: so it stays behind in no case. */
static int lend(const struct package *package, const char *directory, struct nido_error *err)
{
    char byte;
    printf("%s\n%s\n", directory, package->kernel);
    int ret = end_answer(err);
    while (ret == 0 && read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return ret;
}

static int package(char **words, struct nido_error *err)
{
    char directory[PATH_MAX];
    const char *place = getenv("TMPDIR");
    struct package package = {.fd = -1, .architecture = layout_architecture()};
    /* A terminal's Ctrl-C is nido's to die of. */
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], SIG_IGN);
    if (snprintf(directory, sizeof(directory), "%s/nido-package.XXXXXX",
                 place && *place ? place : "/var/tmp") >= (int)sizeof(directory))
        return error_set(err, ENAMETOOLONG, "TMPDIR is too long a path");
    if (!mkdtemp(directory))
        return error_errno(err, errno, "%s cannot be made", directory);
    int ret = jail_seal(JAIL_LAYS_OUT, err);
    if (ret == 0)
        package.fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (ret == 0 && package.fd < 0)
        ret = error_errno(err, errno, "%s", directory);
    for (; ret == 0 && *words; words++)
        ret = package_unpack(&package, *words, err);
    if (ret == 0)
        ret = package_check(&package, err);
    if (ret == 0)
        ret = lend(&package, directory, err);
    if (package.fd >= 0)
        close(package.fd);
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return ret;
}

/* ---- main ---- */

static const struct {
    const char *name;
    int words;
    int (*run)(char **words, struct nido_error *err);
    bool seals; /* the jail itself, later */
} commands[] = {
    {"digest", 1, digest, false},
    {"tar", 2, tar, false},
    {"image", 2, image, false},
    {"layers", 2, layers, false},
    {"package", AT_LEAST_ONE, package, true},
};

static bool takes(int words, int given)
{
    return words == AT_LEAST_ONE ? given >= 1 : given == words;
}

static int run(int argc, char **argv, struct nido_error *err)
{
    for (size_t i = 0; argc >= 2 && i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(argv[1], commands[i].name) == 0 && takes(commands[i].words, argc - 2))
            return commands[i].seals || jail_seal(JAIL_READS, err) == 0
                       ? commands[i].run(argv + 2, err)
                       : -err->code;
    return error_set(err, EINVAL, "nido-unpack is started by nido, for 'nido run --root'");
}

int main(int argc, char **argv)
{
    struct nido_error err = {0};
    /* Names are bytes to Linux, and UTF-8 to the library where it can choose. */
    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        setlocale(LC_CTYPE, "");
    if (jail_limit(&err) == 0 && run(argc, argv, &err) == 0)
        return EXIT_SUCCESS;
    fprintf(stderr, "%s\n", err.text);
    return EXIT_FAILURE;
}
