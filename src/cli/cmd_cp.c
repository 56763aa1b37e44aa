/* SPDX-License-Identifier: Apache-2.0 */
/* nido cp: files into a machine of nido run --root, and out of it. */
#include "base/checked.h"
#include "base/log.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/control.h"
#include "cli/copy_link.h"
#include "cli/rundir.h"
#include "firmware/guest/copy.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define EXIT_NOT_COPIED 1
#define PERMISSIONS     01777
#define ALL_MODES       07777

struct copy {
    const char *user;
    bool setuid;
    char **sources; /* without the machine's name; NULL ends them */
    unsigned source_count;
    char *to;
    char name[RUNDIR_NAME_BYTES];
    bool out;    /* of the machine */
    bool stream; /* the host's end is "-" */
    struct copy_link link;
};

static int usage(void)
{
    log_error("usage: nido cp [--user USER] [--setuid] SOURCE... NAME:DESTINATION\n"
              "       nido cp [--user USER] [--setuid] NAME:SOURCE... DESTINATION\n"
              "       - is a tar stream, on standard input or output; a file of the host's whose "
              "name has a "
              "colon is ./FILE");
    return EXIT_NIDO_FAILED;
}

/* ---- the command line ---- */

/* The path in NAME:PATH, or NULL where it is a file of the host's. */
static char *guest_path(char *argument, char name[RUNDIR_NAME_BYTES])
{
    char *colon = strchr(argument, ':');
    size_t length = colon ? (size_t)(colon - argument) : 0;
    if (!length || length >= RUNDIR_NAME_BYTES || memchr(argument, '/', length))
        return NULL;
    memcpy(name, argument, length);
    name[length] = '\0';
    return rundir_check_name(name, NULL) == 0 ? colon + 1 : NULL;
}

static int take_source(struct copy *copy, unsigned i, struct nido_error *err)
{
    char name[RUNDIR_NAME_BYTES], *path = guest_path(copy->sources[i], name);
    if (!copy->out && path)
        return error_set(err, EINVAL, "%s: one side is the host; copy by way of it",
                         copy->sources[i]);
    if (copy->out && !path)
        return error_set(err, EINVAL,
                         "%s: neither this nor %s is in a machine; say NAME:PATH for what is",
                         copy->sources[i], copy->to);
    if (copy->out && *copy->name && strcmp(copy->name, name) != 0)
        return error_set(err, EINVAL, "from machine '%s' and from '%s': one at a time", copy->name,
                         name);
    if (copy->out) {
        strcpy(copy->name, name);
        copy->sources[i] = path;
    }
    return *copy->sources[i] ? 0 : error_set(err, EINVAL, "an empty name is no file");
}

static int take_paths(struct copy *copy, struct nido_error *err)
{
    int ret = 0;
    char *path = guest_path(copy->to, copy->name);
    copy->out = !path;
    if (path)
        copy->to = path;
    for (unsigned i = 0; ret == 0 && i < copy->source_count; i++)
        ret = take_source(copy, i, err);
    if (ret < 0)
        return ret;
    if (!*copy->to)
        return error_set(err, EINVAL, "an empty name is no file");
    copy->stream = strcmp(copy->out ? copy->to : copy->sources[0], "-") == 0;
    if (copy->stream && !copy->out && copy->source_count > 1)
        return error_set(err, EINVAL, "-: a tar stream comes alone");
    if (copy->stream && copy->out && isatty(STDOUT_FILENO))
        return error_set(err, EINVAL, "-: a tar stream is nothing for a terminal; redirect it");
    return 0;
}

/* False: it is not said as it should be. */
static bool parse(struct copy *copy, int argc, char **argv)
{
    const char *value;
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        if (strcmp(argv[i], "--") == 0) {
            i++;
            break;
        }
        if (strcmp(argv[i], "--setuid") == 0)
            copy->setuid = true;
        else if ((value = cli_flag_value("--user", argc, argv, &i)))
            copy->user = value;
        else
            return false;
    }
    if (argc - i < 2)
        return false;
    copy->sources = argv + i;
    copy->source_count = (unsigned)(argc - i - 1);
    copy->to = argv[argc - 1];
    argv[argc - 1] = NULL;
    return true;
}

/* ---- the copy ---- */

static json_t *request_of(const struct copy *copy)
{
    json_t *paths = json_array();
    for (unsigned i = 0; copy->out && i < copy->source_count; i++)
        json_array_append_new(paths, json_string(copy->sources[i]));
    if (!copy->out)
        json_array_append_new(paths, json_string(copy->to));
    return json_pack("{s:s, s:b, s:o, s:s, s:b, s:b}", "do", "cp", "out", copy->out, "paths", paths,
                     "user", copy->user, "setuid", copy->setuid, "into",
                     copy->stream || copy->source_count > 1);
}

static int open_link(struct copy *copy, struct nido_error *err)
{
    json_t *request = request_of(copy);
    size_t wanted = copy->out ? copy->source_count : 1;
    if (!request || json_array_size(json_object_get(request, "paths")) != wanted) {
        json_decref(request);
        return error_set(err, EINVAL, "names in the guest must be UTF-8 text");
    }
    if (json_dumpb(request, NULL, 0, JSON_COMPACT) >= CONTROL_LINE_BYTES - 1) {
        json_decref(request);
        return error_set(err, E2BIG, "the names in the guest are longer than %u bytes",
                         CONTROL_LINE_BYTES - 1u);
    }
    return copy_link_open(&copy->link, copy->name, request, err);
}

static void complain(void *self, const char *text)
{
    log_error("%s", text);
}

static int send_trees(struct copy *copy)
{
    struct packer packer = {.write = copy_link_write, .complain = complain, .self = &copy->link};
    int ret = pack_trees(&packer, copy->sources);
    if (ret < 0 && ret != -EPIPE && ret != -ECONNRESET)
        log_error("%s: cannot send: %s", copy->name, strerror(-ret));
    int status = copy_link_finish(&copy->link);
    return status ? status : ret < 0 || packer.complaints ? EXIT_NOT_COPIED : 0;
}

/* The names that the guest may send. */
static char **names_of(const struct copy *copy)
{
    char **names = calloc(copy->source_count + 1, sizeof(*names) + COPY_NAME_BYTES);
    char *text = names ? (char *)(names + copy->source_count + 1) : NULL;
    for (unsigned i = 0; names && i < copy->source_count; i++, text += COPY_NAME_BYTES) {
        copy_name(copy->sources[i], text);
        names[i] = text;
    }
    return names;
}

static int receive_trees(struct copy *copy, const struct unpack_place *place)
{
    own_mem char **names = names_of(copy);
    char why[TAR_WHY_BYTES] = "out of memory";
    struct tar_reader *reader = calloc(1, sizeof(*reader));
    const struct unpack_rules rules = {.mode_mask = copy->setuid ? ALL_MODES : PERMISSIONS,
                                       .names = names};
    int ret = -1;
    if (reader && names) {
        *reader = (struct tar_reader){.read = copy_link_read, .self = &copy->link};
        ret = unpack_trees(reader, place, &rules, why);
    }
    free(reader);
    if (ret < 0)
        log_error("%s", why);
    if (ret < 0 && copy->link.machine >= 0)
        return EXIT_NOT_COPIED;
    int status = copy_link_finish(&copy->link);
    return status || ret == 0 ? status : EXIT_NOT_COPIED;
}

/* Standard input, as it is. */
static int send_stream(struct copy *copy)
{
    char bytes[65536];
    ssize_t n = 0;
    int ret = 0;
    while (ret == 0 && copy_link_wait(&copy->link, STDIN_FILENO, POLLIN)) {
        n = read(STDIN_FILENO, bytes, sizeof(bytes));
        if (n <= 0)
            break;
        ret = copy_link_write(&copy->link, bytes, (size_t)n);
    }
    if (n < 0)
        log_error("standard input: %s", strerror(errno));
    int status = copy_link_finish(&copy->link);
    return status ? status : n < 0 || ret < 0 ? EXIT_NOT_COPIED : 0;
}

static int receive_stream(struct copy *copy)
{
    char bytes[65536];
    ssize_t n;
    while ((n = copy_link_read(&copy->link, bytes, sizeof(bytes))) > 0)
        if (fwrite(bytes, 1, (size_t)n, stdout) != (size_t)n)
            break;
    if (n > 0 || fflush(stdout) != 0) {
        log_error("standard output: %s", strerror(errno));
        return EXIT_NOT_COPIED;
    }
    return copy_link_finish(&copy->link);
}

static int copy_out(struct copy *copy, struct nido_error *err)
{
    struct unpack_place place;
    char why[TAR_WHY_BYTES];
    if (unpack_open(&place, copy->to, copy->source_count > 1, why) < 0) {
        log_error("%s", why);
        return EXIT_NOT_COPIED;
    }
    int ret = open_link(copy, err);
    if (ret == 0)
        ret = receive_trees(copy, &place);
    close(place.directory);
    return ret;
}

/* The exit status, or a negative errno. */
static int run(struct copy *copy, struct nido_error *err)
{
    int ret = take_paths(copy, err);
    if (ret == 0 && copy->out && !copy->stream)
        return copy_out(copy, err);
    if (ret == 0)
        ret = open_link(copy, err);
    if (ret < 0)
        return ret;
    if (copy->out)
        return receive_stream(copy);
    return copy->stream ? send_stream(copy) : send_trees(copy);
}

int cmd_cp(int argc, char **argv)
{
    struct copy copy = {.user = "", .link = {.machine = -1, .streams = {-1, -1, -1}}};
    struct nido_error err;
    if (!parse(&copy, argc, argv))
        return usage();
    /* Nobody reads any more, or a file gets too long: errors to tell, not deaths. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    int status = run(&copy, &err);
    copy_link_close(&copy.link);
    if (status >= 0)
        return status;
    log_error("%s", err.text);
    return EXIT_NIDO_FAILED;
}
