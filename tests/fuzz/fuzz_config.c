/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flags and files of somebody who types anything. The first byte says what the rest is:
 *   0   a JSON file as it stands
 *   1   flags, each a byte for the key, then its value up to a zero byte
 *   2.. a JSON file that is made of the bytes, well-formed and with keys that exist
 *
 * Passes when no sanitizer objects, every refusal has a sentence, and what was accepted comes back
 * the same from --dump-config and --config.
 */
#include "base/checked.h"
#include "base/own.h"
#include "config/config.h"

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define DEPTH_MAX 4

/* ---- a file made of bytes ---- */

/* Up to a zero byte. */
static void put_string(FILE *to, struct input *input)
{
    uint8_t c;
    putc('"', to);
    while ((c = input_byte(input)))
        fprintf(to, c >= ' ' && c < 0x7f && c != '"' && c != '\\' ? "%c" : "\\u00%02x", c);
    putc('"', to);
}

static const struct config_key *put_key(FILE *to, struct input *input,
                                        const struct config_key *parent)
{
    uint8_t pick = input_byte(input);
    const struct config_key *key = &config_keys[pick % config_key_count];
    if (pick == 255)
        put_string(to, input);
    else if (parent && parent->option_count)
        fprintf(to, "\"%s\"",
                pick % 8 == 0 && parent->first ? parent->first
                                               : parent->options[pick % parent->option_count].name);
    else
        fprintf(to, "\"%s\"", key->name);
    fputs(": ", to);
    return key;
}

static void put_value(FILE *to, struct input *input, const struct config_key *key, unsigned depth);

static void put_list(FILE *to, struct input *input, const struct config_key *key, unsigned depth,
                     bool object)
{
    unsigned count = input_byte(input) % 12u;
    putc(object ? '{' : '[', to);
    for (unsigned i = 0; i < count; i++) {
        const struct config_key *inner = key;
        if (i)
            putc(',', to);
        if (object)
            inner = put_key(to, input, depth ? key : NULL);
        put_value(to, input, inner, depth + 1);
    }
    putc(object ? '}' : ']', to);
}

static void put_value(FILE *to, struct input *input, const struct config_key *key, unsigned depth)
{
    static const char *const others[] = {"true", "false", "null", "1.5", "-1"};
    uint8_t kind = input_byte(input);
    if (depth > DEPTH_MAX || kind < 64)
        put_string(to, input);
    else if (kind < 128)
        put_list(to, input, key, depth, false);
    else if (kind < 192)
        put_list(to, input, key, depth, true);
    else if (kind < 224)
        fprintf(to, "%u", input_byte(input));
    else
        fputs(others[kind % ARRAY_SIZE(others)], to);
}

/* ---- files that need no disk ---- */

static int memory_file(char path[32], const void *data, size_t size)
{
    int fd = memfd_create("config", MFD_CLOEXEC);
    PROMISE(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

static char *dump(const struct config *config, size_t *length)
{
    char *text = NULL;
    FILE *stream = open_memstream(&text, length);
    PROMISE(stream);
    bool ok = config_dump(config, stream, NULL) == 0;
    fclose(stream);
    if (ok)
        return text;
    free(text);
    return NULL;
}

/* What is accepted but no UTF-8 cannot be dumped. */
static void check_round_trip(const struct config *config)
{
    size_t length, again_length;
    own_mem char *text = dump(config, &length);
    struct config again = {0};
    char path[32];
    if (!text)
        return;
    own_fd int fd = memory_file(path, text, length);
    again.file = path;
    PROMISE(fd >= 0 && config_finalise(&again, NULL) == 0);
    own_mem char *second = dump(&again, &again_length);
    PROMISE(second && length == again_length && memcmp(text, second, length) == 0);
    config_finish(&again);
}

static void finalise(struct config *config)
{
    struct nido_error err = {0};
    if (config_finalise(config, &err) == 0)
        check_round_trip(config);
    else
        PROMISE(err.code && err.text[0]);
    config_finish(config);
}

static void run_file(const void *data, size_t size)
{
    struct config config = {0};
    char path[32];
    own_fd int fd = memory_file(path, data, size);
    config.file = fd >= 0 ? path : NULL;
    finalise(&config);
}

static void run_flags(struct input *input)
{
    struct config config = {0};
    struct nido_error err = {0};
    int ret = 0;
    while (input->left && ret == 0) {
        const struct config_key *key = &config_keys[input_byte(input) % config_key_count];
        own_mem char *value = strndup((const char *)input->at, input->left);
        size_t length = strlen(value);
        input->at += length;
        input->left -= length;
        input_byte(input);
        /* A file of the input's choice is not read. */
        if (strcmp(key->name, "config") != 0)
            ret = config_set(&config, key, key->value || length ? value : NULL, &err);
    }
    PROMISE(ret == 0 || (err.code && err.text[0]));
    if (ret == 0)
        finalise(&config);
    else
        config_finish(&config);
}

static void run_made_file(struct input *input)
{
    size_t length;
    char *text = NULL;
    FILE *stream = open_memstream(&text, &length);
    PROMISE(stream);
    put_list(stream, input, &config_keys[0], 0, true);
    fclose(stream);
    run_file(text, length);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    uint8_t kind = input_byte(&input);
    if (kind == 0)
        run_file(input.at, input.left);
    else if (kind == 1)
        run_flags(&input);
    else
        run_made_file(&input);
    return 0;
}
