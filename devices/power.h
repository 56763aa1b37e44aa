/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_DEVICES_POWER_H
#define NIDO_DEVICES_POWER_H

/*
 * What the registers that end a machine are wired to. The machine embeds one; a device knows only
 * this. Both are called on vCPU threads, perhaps on several at once and more than once: they note
 * the wish, wake whoever acts on it, and return at once. The guest may run a few more instructions.
 */
struct power_switch {
    void (*off)(struct power_switch *power);
    void (*reset)(struct power_switch *power);
};

#endif
