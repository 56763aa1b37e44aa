/* SPDX-License-Identifier: Apache-2.0 */
#include "unpack/digest.h"

#include "base/checked.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bytes;
} kinds[] = {
    [DIGEST_SHA256] = {"sha256", SHA256_DIGEST_SIZE},
    [DIGEST_SHA512] = {"sha512", SHA512_DIGEST_SIZE},
};

/* Lower case only, as the specification has it: one digest, one name. */
static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_hex(struct digest *digest, const char *hex)
{
    for (unsigned i = 0; i < kinds[digest->kind].bytes; i++) {
        int high = hex_value(hex[2 * i]), low = high < 0 ? -1 : hex_value(hex[2 * i + 1]);
        if (low < 0)
            return false;
        digest->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return hex[2 * kinds[digest->kind].bytes] == '\0';
}

int digest_parse(struct digest *digest, const char *text, struct nido_error *err)
{
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        size_t length = strlen(kinds[i].name);
        if (strncmp(text, kinds[i].name, length) != 0 || text[length] != ':')
            continue;
        *digest = (struct digest){.kind = (enum digest_kind)i};
        if (parse_hex(digest, text + length + 1))
            return 0;
        return error_set(err, EINVAL, "'%.80s' is no digest: %u hexadecimal digits make one", text,
                         2 * kinds[i].bytes);
    }
    return error_set(err, EINVAL,
                     "'%.80s' is no digest that nido knows; it takes sha256 and sha512", text);
}

void digest_print(const struct digest *digest, char text[DIGEST_TEXT_BYTES])
{
    int at = snprintf(text, DIGEST_TEXT_BYTES, "%s:", kinds[digest->kind].name);
    for (unsigned i = 0; i < kinds[digest->kind].bytes; i++)
        at += snprintf(text + at, DIGEST_TEXT_BYTES - (size_t)at, "%02x", digest->bytes[i]);
}

const char *digest_algorithm(const struct digest *digest)
{
    return kinds[digest->kind].name;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return a->kind == b->kind && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

void hasher_begin(struct hasher *hasher, enum digest_kind kind)
{
    hasher->kind = kind;
    if (kind == DIGEST_SHA256)
        sha256_init(&hasher->u.sha256);
    else
        sha512_init(&hasher->u.sha512);
}

void hasher_add(struct hasher *hasher, const void *bytes, size_t count)
{
    if (hasher->kind == DIGEST_SHA256)
        sha256_update(&hasher->u.sha256, count, bytes);
    else
        sha512_update(&hasher->u.sha512, count, bytes);
}

void hasher_end(struct hasher *hasher, struct digest *digest)
{
    *digest = (struct digest){.kind = hasher->kind};
    if (hasher->kind == DIGEST_SHA256)
        sha256_digest(&hasher->u.sha256, SHA256_DIGEST_SIZE, digest->bytes);
    else
        sha512_digest(&hasher->u.sha512, SHA512_DIGEST_SIZE, digest->bytes);
}
