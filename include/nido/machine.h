/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_MACHINE_H
#define NIDO_MACHINE_H

/*
 * A virtual machine in this process. The life of one:
 *
 *     nido_machine_create    opens what the configuration names; refuses what is wrong
 *     nido_machine_start     the guest runs, in threads of its own; returns at once
 *     poll(nido_machine_fd)  readable once the machine has ended
 *     nido_machine_end       how it ended
 *     nido_machine_destroy
 *
 * Errors are a negative errno and one sentence in *err.
 */

#include <nido/config.h>
#include <nido/error.h>

struct nido_machine;

enum nido_end {
    NIDO_RUNNING,
    NIDO_POWERED_OFF, /* the guest switched itself off */
    NIDO_RESET,       /* the guest asked for a reboot */
    NIDO_CRASHED,     /* triple fault, KVM internal error: the report tells */
    NIDO_FAILED,      /* the host could not go on: the report tells */
    NIDO_STOPPED,     /* nido_machine_stop() */
    NIDO_PANICKED,    /* the guest's kernel says that it has panicked: its console tells */
};

/* What its disks, networks and shares have moved, as the guest sees directions. Only what arrived counts, and no headers of
 * requests; a write of zeroes or a discard moves nothing. */
struct nido_traffic {
    uint64_t disk_read_bytes, disk_written_bytes;
    uint64_t net_received_bytes, net_sent_bytes;
    uint64_t share_read_bytes, share_written_bytes; /* of files; no names and no attributes */
};

struct nido_status {
    unsigned cpus;
    uint64_t mem_bytes;
    uint64_t uptime_ns; /* since nido_machine_start() */
    uint64_t exits;     /* vCPU exits to this process, all vCPUs together */
    bool paused;
    struct nido_traffic traffic; /* since the machine was made */
};

/* A balloon, and what the guest says of its memory. */
struct nido_balloon_stats {
    uint64_t target_bytes;   /* what the guest is asked to give up */
    uint64_t actual_bytes;   /* what it has given up */
    uint64_t inflated_bytes; /* given back to the host since the start: given up by the guest, */
    uint64_t reported_bytes; /* and reported as free by it */
    bool known;              /* the guest has told what follows */
    uint64_t age_ns;         /* how long ago that was */
    uint64_t total_bytes, free_bytes, available_bytes, cache_bytes;
    uint64_t swap_in_bytes, swap_out_bytes; /* since the guest's start, as the faults */
    uint64_t major_faults, minor_faults;
};

/* "exits.mmio", "blk vda.kicks": a name and how often, or how many bytes, since the machine was made. */
struct nido_counter {
    char name[48];
    uint64_t value;
};

#define NIDO_COUNTERS_MAX 128u

int nido_machine_create(struct nido_machine **out, const struct nido_config *config,
                        struct nido_error *err);
int nido_machine_start(struct nido_machine *machine, struct nido_error *err);

/* A descriptor that becomes readable once the machine has ended. Owned by the machine; only to be
 * polled. */
int nido_machine_fd(const struct nido_machine *machine);

/* Any thread. *report, unless NULL, becomes lines for a person or NULL; the machine's. */
enum nido_end nido_machine_end(struct nido_machine *machine, const char **report);

/* Any thread. The guest may take its time, or ignore it. */
void nido_machine_press_power_button(struct nido_machine *machine);

/* Holds the vCPUs where they are, and waits until they are held; devices finish what is under way. Only one
 * thread at a time may pause and resume. */
void nido_machine_pause(struct nido_machine *machine);
void nido_machine_resume(struct nido_machine *machine);

/* Stops the vCPUs where they are, and waits for that. What the guest has written to its console
 * goes out still. The end is NIDO_STOPPED unless it had ended before. */
void nido_machine_stop(struct nido_machine *machine);

/* Any thread. -ENODEV: the machine has no balloon. The guest follows a new target as it can; the
 * statistics are what is known now, and it is asked for newer ones. */
int nido_machine_set_balloon(struct nido_machine *machine, uint64_t target_bytes,
                             struct nido_error *err);
int nido_machine_balloon_stats(struct nido_machine *machine, struct nido_balloon_stats *stats,
                               struct nido_error *err);

void nido_machine_status(struct nido_machine *machine, struct nido_status *status);

/* Any thread. Fills at most `max` counters and returns how many: exits by reason, and kicks, completed requests
 * and interrupts of each device; of disks and networks the bytes as well. */
unsigned nido_machine_counters(struct nido_machine *machine, struct nido_counter *counters,
                               unsigned max);

/* Takes NULL. Stops first. Everything acknowledged to the guest as flushed is on the host's
 * disk. */
void nido_machine_destroy(struct nido_machine *machine);

#endif
