/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/tar.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of an extended header, or of one of GNU tar's long names. */
#define EXTENDED_BYTES_MAX (64u << 10)
#define NANOSECONDS        1000000000u

/* POSIX.1-2017, pax, "ustar Interchange Format". */
struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], owner[32], group[32], major[8], minor[8], prefix[155], unused[12];
};

_Static_assert(sizeof(struct header) == TAR_BLOCK_BYTES, "a header is a block");

/* Of the UTF-8 character there; 0: it is none, or one that a terminal acts on: C0 and C1 controls, and
 * what turns a line's direction or ends it (U+2028 to U+202E, U+2066 to U+2069). */
static size_t harmless_bytes(const char *text)
{
    const uint8_t *at = (const uint8_t *)text;
    if (at[0] < 0x80)
        return at[0] >= ' ' && at[0] != 0x7f;
    unsigned more = at[0] >= 0xf0 ? 3 : at[0] >= 0xe0 ? 2 : 1;
    if (at[0] < 0xc2 || at[0] > 0xf4)
        return 0;
    uint32_t character = at[0] & (0x3fu >> more);
    for (unsigned i = 1; i <= more; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        character = character << 6 | (at[i] & 0x3f);
    }
    bool acts = character < 0xa0 || (character >= 0x2028 && character <= 0x202e) ||
                (character >= 0x2066 && character <= 0x2069);
    /* Too long for what it says, a surrogate, or beyond Unicode. */
    bool wrong = (more == 2 && character < 0x800) || (more == 3 && character < 0x10000) ||
                 (character >= 0xd800 && character <= 0xdfff) || character > 0x10ffff;
    return acts || wrong ? 0 : more + 1;
}

void tar_harmless(char *text)
{
    while (*text) {
        size_t bytes = harmless_bytes(text);
        if (!bytes)
            *text = '?';
        text += bytes ? bytes : 1;
    }
}

void tar_explain(char why[TAR_WHY_BYTES], const char *path, const char *text)
{
    snprintf(why, TAR_WHY_BYTES, "%.350s%s%s", path, *path ? ": " : "", text);
    tar_harmless(why);
}

static unsigned checksum_of(const struct header *header)
{
    const uint8_t *bytes = (const uint8_t *)header;
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof(*header); i++) {
        bool own = i >= offsetof(struct header, checksum) && i < offsetof(struct header, type);
        sum += own ? ' ' : bytes[i];
    }
    return sum;
}

/* ---- writing ---- */

/* False, and zeros: the number has more digits than there is room for. */
static bool put_octal(char *field, size_t bytes, uint64_t number)
{
    bool fits = number >> (3 * (bytes - 1)) == 0;
    uint64_t rest = fits ? number : 0;
    for (size_t i = bytes - 1; i-- > 0; rest >>= 3)
        field[i] = (char)('0' + (rest & 7));
    return fits;
}

static void finish_header(struct header *header)
{
    memcpy(header->magic, "ustar", 6);
    memcpy(header->version, "00", 2);
    put_octal(header->checksum, 7, checksum_of(header));
    header->checksum[7] = ' ';
}

struct records {
    char *bytes;
    size_t length;
};

/* "LENGTH KEY=VALUE\n", and the length counts itself. */
static void put_record(struct records *records, const char *key, const char *value)
{
    size_t rest = strlen(key) + strlen(value) + 3, length = rest + 1;
    while (length != rest + (size_t)snprintf(NULL, 0, "%zu", length))
        length = rest + (size_t)snprintf(NULL, 0, "%zu", length);
    records->length +=
        (size_t)sprintf(records->bytes + records->length, "%zu %s=%s\n", length, key, value);
}

static void put_number_record(struct records *records, const char *key, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    put_record(records, key, text);
}

static void put_time_record(struct records *records, int64_t seconds, uint32_t nanoseconds)
{
    char text[48];
    /* A negative time counts back from zero as a whole: -1.5 s is -2 s and half a second. */
    bool before = seconds < 0 && nanoseconds;
    long long whole = before ? (long long)seconds + 1 : (long long)seconds;
    snprintf(text, sizeof(text), "%s%lld.%09u", before && whole == 0 ? "-" : "", whole,
             before ? NANOSECONDS - nanoseconds : nanoseconds);
    put_record(records, "mtime", text);
}

static void put_name(struct records *records, char field[100], const char *key, const char *name)
{
    size_t length = strlen(name);
    memcpy(field, name, length < 100 ? length : 100);
    if (length > 100)
        put_record(records, key, name);
}

static void fill_header(struct header *header, const struct tar_entry *entry,
                        struct records *records)
{
    static const char types[] = {[TAR_FILE] = '0', [TAR_DIRECTORY] = '5', [TAR_SYMLINK] = '2'};
    put_name(records, header->name, "path", entry->path);
    if (entry->kind == TAR_SYMLINK)
        put_name(records, header->link, "linkpath", entry->link);
    put_octal(header->mode, sizeof(header->mode), entry->mode & 07777);
    if (!put_octal(header->uid, sizeof(header->uid), entry->uid))
        put_number_record(records, "uid", entry->uid);
    if (!put_octal(header->gid, sizeof(header->gid), entry->gid))
        put_number_record(records, "gid", entry->gid);
    if (!put_octal(header->size, sizeof(header->size), entry->kind == TAR_FILE ? entry->size : 0))
        put_number_record(records, "size", entry->size);
    bool fits = entry->mtime_s >= 0 &&
                put_octal(header->mtime, sizeof(header->mtime), (uint64_t)entry->mtime_s);
    if (!fits || entry->mtime_ns)
        put_time_record(records, entry->mtime_s, entry->mtime_ns);
    header->type = types[entry->kind];
    finish_header(header);
}

static size_t whole_blocks(size_t bytes)
{
    return (bytes + TAR_BLOCK_BYTES - 1) / TAR_BLOCK_BYTES * TAR_BLOCK_BYTES;
}

size_t tar_put(const struct tar_entry *entry, uint8_t bytes[TAR_HEADER_BYTES])
{
    struct header header = {0}, extended = {.name = "pax", .type = 'x'};
    memset(bytes, 0, TAR_HEADER_BYTES);
    struct records records = {.bytes = (char *)bytes + TAR_BLOCK_BYTES};
    fill_header(&header, entry, &records);
    size_t at = 0;
    if (records.length) {
        put_octal(extended.mode, sizeof(extended.mode), 0644);
        put_octal(extended.size, sizeof(extended.size), records.length);
        finish_header(&extended);
        memcpy(bytes, &extended, sizeof(extended));
        at = TAR_BLOCK_BYTES + whole_blocks(records.length);
    }
    /* The last record ends with a NUL, of sprintf's, which is a zero of the padding or gone now. */
    memcpy(bytes + at, &header, sizeof(header));
    return at + sizeof(header);
}

/* ---- reading ---- */

static int fail(struct tar_reader *reader, const char *path, const char *text)
{
    tar_explain(reader->why, path, text);
    return -1;
}

/* False: `why` tells. */
static bool read_all(struct tar_reader *reader, void *bytes, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t n = reader->read(reader->self, (char *)bytes + done, count - done);
        if (n <= 0) {
            fail(reader, "", n < 0 ? strerror((int)-n) : "the stream ends too soon");
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static bool skip(struct tar_reader *reader, uint64_t count)
{
    char bytes[4096];
    while (count) {
        size_t n = count < sizeof(bytes) ? (size_t)count : sizeof(bytes);
        if (!read_all(reader, bytes, n))
            return false;
        count -= n;
    }
    return true;
}

/* Octal digits, or GNU's base 256, which has the first bit set, and the second where it is negative. */
static bool get_number(const char *field, size_t bytes, int64_t *number)
{
    const uint8_t *at = (const uint8_t *)field, *end = at + bytes;
    uint64_t value = 0;
    if (*at & 0x80) {
        value = *at & 0x40 ? ~(uint64_t)0 : 0;
        uint8_t over = (uint8_t)value;
        for (value = value << 6 | (*at++ & 0x3f); at < end; at++) {
            /* What is shifted out must be the sign alone. */
            if ((uint8_t)(value >> 56) != over)
                return false;
            value = value << 8 | *at;
        }
        *number = (int64_t)value;
        return (*number < 0) == (over != 0);
    }
    while (at < end && *at == ' ')
        at++;
    for (; at < end && *at >= '0' && *at <= '7'; at++)
        value = value << 3 | (uint64_t)(*at - '0');
    *number = (int64_t)value;
    return at == end || *at == ' ' || *at == '\0';
}

/* What an extended header has said of the entry that follows. */
struct extended {
    bool has_path, has_link, has_size, has_mtime;
    struct tar_entry entry;
};

static bool set_text(char to[TAR_PATH_BYTES], const char *text, size_t length)
{
    if (length >= TAR_PATH_BYTES || memchr(text, '\0', length))
        return false;
    memcpy(to, text, length);
    to[length] = '\0';
    return true;
}

static bool set_size(struct extended *extended, const char *value)
{
    char *end;
    errno = 0;
    extended->entry.size = strtoull(value, &end, 10);
    return *value >= '0' && *value <= '9' && !*end && errno == 0 &&
           extended->entry.size <= INT64_MAX;
}

/* "-1.5" is half a second after -2. */
static bool set_time(struct tar_entry *entry, const char *value)
{
    char *end;
    bool before = *value == '-';
    uint32_t nanoseconds = 0, unit = NANOSECONDS;
    errno = 0;
    long long seconds = strtoll(value, &end, 10);
    if (end == value || errno)
        return false;
    if (*end == '.')
        for (end++; *end >= '0' && *end <= '9'; end++)
            nanoseconds += (unit /= 10) * (uint32_t)(*end - '0');
    if (*end)
        return false;
    if (before && nanoseconds && seconds > INT64_MIN) {
        seconds--;
        nanoseconds = NANOSECONDS - nanoseconds;
    }
    entry->mtime_s = seconds;
    entry->mtime_ns = nanoseconds;
    return true;
}

static bool take_record(struct extended *extended, const char *key, const char *value,
                        size_t length)
{
    if (strcmp(key, "path") == 0)
        return extended->has_path = set_text(extended->entry.path, value, length);
    if (strcmp(key, "linkpath") == 0)
        return extended->has_link = set_text(extended->entry.link, value, length);
    if (strcmp(key, "size") == 0)
        return extended->has_size = set_size(extended, value);
    if (strcmp(key, "mtime") == 0)
        return extended->has_mtime = set_time(&extended->entry, value);
    /* GNU tar's sparse files are made of blocks that mean something else than they say. */
    return strncmp(key, "GNU.sparse", 10) != 0;
}

/* Takes the records in `text`, of `length` bytes and a NUL, apart. */
static bool take_records(struct extended *extended, char *text, size_t length)
{
    while (length) {
        char *key, *value;
        unsigned long own = strtoul(text, &key, 10);
        if (*text < '0' || *text > '9' || *key != ' ' || own > length ||
            own < (size_t)(key - text) + 3 || text[own - 1] != '\n')
            return false;
        text[own - 1] = '\0';
        value = strchr(++key, '=');
        if (!value)
            return false;
        *value++ = '\0';
        if (!take_record(extended, key, value, (size_t)(text + own - 1 - value)))
            return false;
        text += own;
        length -= own;
    }
    return true;
}

static bool read_extended(struct tar_reader *reader, char type, uint64_t size,
                          struct extended *extended)
{
    char *text = size <= EXTENDED_BYTES_MAX ? malloc(size + 1) : NULL;
    bool good = text && read_all(reader, text, size) && skip(reader, -size % TAR_BLOCK_BYTES);
    if (good) {
        text[size] = '\0';
        if (type == 'x')
            good = take_records(extended, text, size);
        else if (type == 'L')
            good = extended->has_path = set_text(extended->entry.path, text, strlen(text));
        else if (type == 'K')
            good = extended->has_link = set_text(extended->entry.link, text, strlen(text));
    }
    free(text);
    if (!good && !*reader->why)
        fail(reader, "", "the stream has an extended header that makes no sense, or is too long");
    return good;
}

static bool set_kind(struct tar_entry *entry, char type)
{
    size_t length = strlen(entry->path);
    switch (type) {
    case '\0':
    case '0':
    case '7':
        /* In the oldest archives a directory is a name with a slash. */
        entry->kind = length && entry->path[length - 1] == '/' ? TAR_DIRECTORY : TAR_FILE;
        return true;
    case '1':
        entry->kind = TAR_HARD_LINK;
        return true;
    case '2':
        entry->kind = TAR_SYMLINK;
        return true;
    case '3':
    case '4':
    case '6':
        entry->kind = TAR_NODE;
        return true;
    case '5':
        entry->kind = TAR_DIRECTORY;
        return true;
    default:
        return false;
    }
}

static int take_header(struct tar_reader *reader, const struct header *header,
                       const struct extended *extended, uint64_t size, int64_t mtime)
{
    struct tar_entry *entry = &reader->entry;
    int64_t mode;
    bool has_prefix = memcmp(header->magic, "ustar", 6) == 0 && header->prefix[0];
    *entry = extended->entry;
    if (!extended->has_path)
        snprintf(entry->path, sizeof(entry->path), "%.155s%s%.100s",
                 has_prefix ? header->prefix : "", has_prefix ? "/" : "", header->name);
    if (!extended->has_link)
        snprintf(entry->link, sizeof(entry->link), "%.100s", header->link);
    if (!extended->has_size)
        entry->size = size;
    if (!extended->has_mtime)
        entry->mtime_s = mtime;
    if (!get_number(header->mode, sizeof(header->mode), &mode))
        return fail(reader, entry->path, "its header makes no sense");
    entry->mode = (mode_t)mode & 07777;
    if (!set_kind(entry, header->type))
        return fail(reader, entry->path,
                    "the stream has an entry of a kind that nido does not know");
    if (entry->kind != TAR_FILE && entry->kind != TAR_HARD_LINK)
        entry->size = 0;
    /* A hard link may have bytes (POSIX.1-2017, pax); they are the file's, which is there. */
    reader->left = entry->size;
    reader->padding = (unsigned)(-entry->size % TAR_BLOCK_BYTES);
    return 1;
}

/* Whoever sends may fill up a last record, and shall not find nobody reading. */
static int drain(struct tar_reader *reader)
{
    char bytes[4096];
    ssize_t n;
    while ((n = reader->read(reader->self, bytes, sizeof(bytes))) > 0)
        continue;
    return n < 0 ? fail(reader, "", strerror((int)-n)) : 0;
}

int tar_next(struct tar_reader *reader)
{
    static const struct header end;
    struct header header;
    struct extended *extended = calloc(1, sizeof(*extended));
    int64_t checksum = 0, size = 0, mtime = 0;
    int ret = -1;
    if (!extended)
        return fail(reader, "", strerror(ENOMEM));
    while (skip(reader, reader->left + reader->padding)) {
        reader->left = reader->padding = 0;
        if (!read_all(reader, &header, sizeof(header)))
            break;
        if (memcmp(&header, &end, sizeof(end)) == 0) {
            ret = drain(reader);
            break;
        }
        if (!get_number(header.checksum, sizeof(header.checksum), &checksum) ||
            checksum != checksum_of(&header)) {
            fail(reader, "", "the stream is no tar archive, or is damaged");
            break;
        }
        if (!get_number(header.size, sizeof(header.size), &size) || size < 0 ||
            !get_number(header.mtime, sizeof(header.mtime), &mtime)) {
            fail(reader, "", "the stream has a header that makes no sense");
            break;
        }
        if (!strchr("xgLK", header.type) || !header.type) {
            ret = take_header(reader, &header, extended, (uint64_t)size, mtime);
            break;
        }
        if (!read_extended(reader, header.type, (uint64_t)size, extended))
            break;
    }
    free(extended);
    return ret;
}

ssize_t tar_read(struct tar_reader *reader, void *bytes, size_t count)
{
    if (count > reader->left)
        count = (size_t)reader->left;
    if (!count)
        return 0;
    ssize_t n = reader->read(reader->self, bytes, count);
    if (n <= 0)
        return fail(reader, reader->entry.path,
                    n < 0 ? strerror((int)-n) : "the stream ends too soon");
    reader->left -= (uint64_t)n;
    return n;
}
