/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/zeropage.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/x86/e820.h"
#include "firmware/x86/layout.h"

#include <errno.h>
#include <sys/random.h>

#define LOADER_UNDEFINED 0xffu /* "type_of_loader": none of those with a number */
/* Linux 6.0 and later; an older kernel skips a type that it does not know. */
#define SETUP_DATA_RNG_SEED 9u
#define SEED_BYTES          32u

void zeropage_default_header(struct setup_header *header)
{
    *header = (struct setup_header){
        .boot_flag = 0xaa55,
        .header = 0x53726448, /* "HdrS" */
        .version = 0x020f,
        .loadflags = LOADED_HIGH,
        .kernel_alignment = 2 * MIB,
        .xloadflags = XLF_KERNEL_64,
    };
}

/* boot.rst, "setup_data": without a seed the kernel would wait for its own entropy. */
static int write_seed(struct mem *mem, struct nido_error *err)
{
    struct {
        struct setup_data head;
        uint8_t seed[SEED_BYTES];
    } data = {.head = {.type = SETUP_DATA_RNG_SEED, .len = SEED_BYTES}};

    /* Up to 256 bytes come whole, once the host's generator is ready. */
    if (getrandom(data.seed, sizeof(data.seed), 0) != sizeof(data.seed))
        return error_errno(err, errno, "no random seed for the guest");
    return mem_write(mem, LOW_SETUP_DATA_GPA, &data, sizeof(data.head) + sizeof(data.seed));
}

static void fill_map(struct boot_params *params, const struct mem *mem)
{
    struct e820_map map;
    e820_make(&map, mem);
    for (unsigned i = 0; i < map.count; i++) {
        params->e820_table[i].addr = map.entries[i].gpa;
        params->e820_table[i].size = map.entries[i].length_bytes;
        params->e820_table[i].type = map.entries[i].type;
    }
    params->e820_entries = (uint8_t)map.count;
}

int zeropage_write(const struct setup_header *header, const struct initrd *initrd,
                   uint64_t rsdp_gpa, struct mem *mem, struct nido_error *err)
{
    struct boot_params params = {.hdr = *header, .acpi_rsdp_addr = rsdp_gpa};

    params.hdr.type_of_loader = LOADER_UNDEFINED;
    /* No real-mode code ran, so there is neither a heap nor are there its segments. */
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.loadflags &= (uint8_t)~CAN_USE_HEAP;
    params.hdr.cmd_line_ptr = LOW_CMDLINE_GPA;
    params.hdr.ramdisk_image = (uint32_t)initrd->gpa;
    params.hdr.ramdisk_size = (uint32_t)initrd->length_bytes;
    params.hdr.setup_data = LOW_SETUP_DATA_GPA;
    fill_map(&params, mem);

    int r = write_seed(mem, err);
    if (r == 0)
        r = mem_write(mem, LOW_ZERO_PAGE_GPA, &params, sizeof(params));
    return r;
}
