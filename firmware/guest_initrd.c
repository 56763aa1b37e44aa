/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest_initrd.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/own.h"
#include "firmware/bootfile.h"
#include "firmware/cpio.h"
#include "firmware/guest/program.h"
#include "firmware/modules.h"
#include "firmware/unpack.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#define TEXT_BYTES_MAX   (16u << 20)
#define MODULE_BYTES_MAX (64u << 20)
#define FILES_MAX        128u

/* What a guest of nido may want loaded. */
static const struct {
    const char *name;
    bool needed; /* by every guest, unless it is built in */
} wanted[] = {
    {"virtio_mmio", true},     {"virtio_blk", true},    {"vmw_vsock_virtio_transport", true},
    {"overlay", true},         {"virtio_net", false},   {"virtiofs", false},
    {"ext4", false},           {"erofs", false},        {"squashfs", false},
    {"virtio_rng", false},     {"pvpanic_mmio", false}, {"virtio_console", false},
    {"crc32c_generic", false}, {"loop", false},         {"virtio_balloon", false},
};

struct build {
    const char *directory;
    struct modules modules;
    char *builtin; /* modules.builtin; NULL: there is none */
    struct cpio cpio;
    unsigned packed_count;
    const struct module *packed[FILES_MAX];
};

static int read_text(const char *directory, const char *name, char **text, struct nido_error *err)
{
    char path[PATH_MAX];
    own_bootfile struct bootfile file = {.fd = -1};
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int ret = bootfile_open(&file, path, err);
    if (ret == 0 && file.size_bytes > TEXT_BYTES_MAX)
        ret = error_set(err, EFBIG, "too long");
    own_mem char *bytes = ret < 0 ? NULL : calloc(1, file.size_bytes + 1);
    if (ret == 0 && !bytes)
        ret = error_set(err, ENOMEM, "out of memory");
    if (ret == 0)
        ret = bootfile_read(&file, 0, bytes, file.size_bytes, err);
    if (ret < 0)
        return error_prefix(err, "%s", path);
    *text = own_take_ptr(bytes);
    return 0;
}

/* Lines are paths; '-' and '_' are the same in names. */
static bool is_builtin(const struct build *build, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = build->builtin; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        const char *end = at + strcspn(at, "\n"), *base = end;
        while (base > at && base[-1] != '/')
            base--;
        size_t i = 0;
        while (i < length && base + i < end &&
               (base[i] == name[i] || (base[i] == '-' && name[i] == '_')))
            i++;
        if (i == length && (size_t)(end - base) > length && base[length] == '.')
            return true;
        if (!*at)
            break;
    }
    return false;
}

static int read_module(const char *path, uint8_t **bytes, size_t *length, struct nido_error *err)
{
    uint8_t magic[UNPACK_MAGIC_BYTES];
    own_bootfile struct bootfile file = {.fd = -1};
    int ret = bootfile_open(&file, path, err);
    if (ret == 0)
        ret = bootfile_read(&file, 0, magic, sizeof(magic), err);
    if (ret < 0)
        return ret;
    enum unpack_format format = unpack_recognise(magic);
    size_t room = format == UNPACK_UNKNOWN ? file.size_bytes : MODULE_BYTES_MAX;
    if (room > MODULE_BYTES_MAX)
        return error_set(err, EFBIG, "too long for a module");
    own_mem uint8_t *all = malloc(room);
    if (!all)
        return error_set(err, ENOMEM, "out of memory");
    *length = room;
    ret = format == UNPACK_UNKNOWN
              ? bootfile_read(&file, 0, all, room, err)
              : unpack_all(format, &file, 0, file.size_bytes, all, room, length, err);
    if (ret == 0)
        *bytes = own_take_ptr(all);
    return ret;
}

/* What stands behind a signed module: the signature, a record of 12 bytes of which the last four are
 * the signature's length, and a mark (Documentation/admin-guide/module-signing.rst). */
static size_t signature_length(const uint8_t *module, size_t length)
{
    static const char mark[] = "~Module signature appended~\n";
    const size_t mark_bytes = sizeof(mark) - 1, record_bytes = 12;
    if (length < mark_bytes + record_bytes ||
        memcmp(module + length - mark_bytes, mark, mark_bytes) != 0)
        return 0;
    size_t signature = get_be32(module + length - mark_bytes - 4) + record_bytes + mark_bytes;
    return signature < length ? signature : 0;
}

/* Its signature is a file of its own: see firmware/guest/modules.c. */
static int pack_file(struct build *build, const char *name, const uint8_t *bytes, size_t length,
                     struct nido_error *err)
{
    char path[MODULE_NAME_BYTES + 32];
    size_t signature = signature_length(bytes, length);
    snprintf(path, sizeof(path), "modules/%s.ko", name);
    int ret = cpio_file(&build->cpio, path, 0444, bytes, length - signature, err);
    if (ret < 0 || !signature)
        return ret;
    snprintf(path, sizeof(path), "modules/%s.ko.sig", name);
    return cpio_file(&build->cpio, path, 0444, bytes + length - signature, signature, err);
}

/* Each file once, however many need it. */
static int pack_module(struct build *build, const struct module *module, struct nido_error *err)
{
    char path[PATH_MAX];
    own_mem uint8_t *bytes = NULL;
    size_t length = 0;
    for (unsigned i = 0; i < build->packed_count; i++)
        if (build->packed[i] == module)
            return 0;
    if (build->packed_count == FILES_MAX)
        return error_set(err, E2BIG, "these are more than %u modules", FILES_MAX);
    build->packed[build->packed_count++] = module;
    if (snprintf(path, sizeof(path), "%s/%s", build->directory, module->path) >= (int)sizeof(path))
        return error_set(err, ENAMETOOLONG, "module %s: too long a path", module->name);
    int ret = read_module(path, &bytes, &length, err);
    if (ret < 0)
        return error_prefix(err, "%s", path);
    return pack_file(build, module->name, bytes, length, err);
}

static int pack_wanted(struct build *build, unsigned index, FILE *list, struct nido_error *err)
{
    const struct module *order[MODULE_DEPS_MAX];
    const char *name = wanted[index].name;
    const struct module *module = modules_find(&build->modules, name);
    if (!module && wanted[index].needed && !is_builtin(build, name))
        return error_set(err, ENOENT,
                         "this kernel has no %s, which nido's guests cannot do without", name);
    if (!module)
        return 0;
    int count = modules_order(&build->modules, module, order, err);
    fprintf(list, "%s", name);
    for (int i = 0; i < count; i++) {
        int ret = pack_module(build, order[i], err);
        if (ret < 0)
            return ret;
        fprintf(list, " %s.ko", order[i]->name);
    }
    fputc('\n', list);
    return count < 0 ? count : 0;
}

static int pack_list(struct build *build, struct nido_error *err)
{
    own_mem char *text = NULL;
    size_t length;
    FILE *list = open_memstream(&text, &length);
    if (!list)
        return error_set(err, ENOMEM, "out of memory");
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < ARRAY_SIZE(wanted); i++)
        ret = pack_wanted(build, i, list, err);
    fclose(list);
    return ret < 0 ? ret : cpio_file(&build->cpio, "modules/list", 0444, text, length, err);
}

int guest_initrd_modules(FILE *to, const char *directory, struct nido_error *err)
{
    struct build build = {.directory = directory};
    char *text = NULL;
    int ret = read_text(directory, "modules.dep", &text, err);
    if (ret < 0)
        return ret;
    if (read_text(directory, "modules.builtin", &build.builtin, NULL) < 0)
        build.builtin = NULL;
    ret = modules_parse(&build.modules, text, err);
    cpio_begin(&build.cpio, to);
    cpio_directory(&build.cpio, "modules", 0755);
    if (ret == 0)
        ret = pack_list(&build, err);
    if (ret == 0)
        ret = cpio_end(&build.cpio, err);
    modules_finish(&build.modules);
    free(build.builtin);
    return ret;
}

int guest_initrd_program(FILE *to, struct nido_error *err)
{
    struct cpio cpio;
    size_t length;
    const uint8_t *program = guest_program(&length);
    cpio_begin(&cpio, to);
    cpio_directory(&cpio, "dev", 0755);
    cpio_device(&cpio, "dev/console", 0600, 5, 1);
    int ret = cpio_file(&cpio, "init", 0755, program, length, err);
    return ret < 0 ? ret : cpio_end(&cpio, err);
}
