/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ARCH_BOARD_H
#define NIDO_ARCH_BOARD_H

/*
 * The board: which devices a machine has, where they answer, and what tells the guest of them. Each
 * architecture has one, in src/arch/<arch>/board.c, with one list that puts devices on the buses
 * and feeds ACPI or the device tree.
 *
 * Order: board_create (fixed devices), board_attach_virtio as often as there are devices,
 * board_add_loop_devices, board_finish (the guest's description of all that), boot_load, board_boot.
 */

#include "base/error.h"
#include "devices/virtio/virtio.h"
#include "firmware/boot.h"
#include "host/loop.h"
#include "host/stream.h"
#include "vm/machine.h"

#include <nido/config.h>

struct board;

/* The machine outlives nothing here: destroy it first, then the board. */
int board_create(struct board **out, struct machine *machine, struct nido_error *err);
void board_destroy(struct board *board); /* takes NULL; after the machine's devices are gone */

/* The serial port's line. Until a stream is put on it, what the guest writes goes nowhere. */
struct stream_guest *board_console(struct board *board);

/* An interrupt line for the next virtio device; owned by the board. */
int board_next_irq(struct board *board, const struct irq **out, struct nido_error *err);
/* Puts the device behind a transport, on the bus and in the guest's tables, in the order of calls.
 * Owns `device` from here on, also on failure. */
int board_attach_virtio(struct board *board, struct virtio_device *device, const struct irq *irq,
                        struct nido_error *err);

/* The board's own devices that live on a loop, after all others so that these keep their places. */
int board_add_loop_devices(struct board *board, struct loop *loop, struct nido_error *err);

/* What a panic of the guest's kernel leads to; before the guest starts. The machine's end is the
 * default. A kernel that has a crash kernel loaded is left to it always. */
void board_set_on_panic(struct board *board, enum nido_on_panic on_panic);

/* Writes the tables into RAM. With `dump_directory`, into files there too. */
int board_finish(struct board *board, const char *dump_directory, uint64_t *tables_gpa,
                 struct nido_error *err);

/* Sets the first vCPU's registers so that it starts at `entry`. */
int board_boot(struct board *board, const struct boot_entry *entry, struct nido_error *err);

/* Any thread. The guest may take its time, or ignore it. */
void board_press_power_button(struct board *board);

#endif
