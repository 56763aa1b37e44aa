/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_MACHINE_H
#define NIDO_VM_MACHINE_H

/*
 * A machine without devices: a KVM VM, its RAM, its two buses, its vCPUs, and how it ends.
 *
 * Life: machine_create, then devices are added and wired and the first vCPU is given its registers
 * (by the architecture), then machine_start. The machine ends once, for the first reason that
 * anybody gives (machine_end, any thread); then machine_stop joins the vCPUs, and machine_destroy
 * frees the rest.
 */

#include "base/error.h"
#include "base/lock.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/mem.h"
#include "vm/vcpu.h"

#include <nido/machine.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define MACHINE_DEVICES_MAX 64

struct machine_config {
    uint64_t mem_bytes;
    unsigned cpus;
    enum mem_backing backing;
};

struct arch_vm;

struct machine {
    int kvm_fd;
    int vm_fd;
    struct arch_vm *arch; /* the architecture's own (vm/arch.h); NULL where it keeps nothing */
    struct mem *mem;
    struct bus pio, mmio;
    unsigned vcpu_count;
    unsigned cpus;      /* how many there are to be */
    struct vcpu *vcpus; /* an array */
    unsigned device_count;
    struct device *devices[MACHINE_DEVICES_MAX]; /* owned; destroyed last first */

    /* Pausing: vCPU threads park on `unparked`; whoever pauses waits on `parked` for all of them. */
    struct lock park_lock;
    pthread_cond_t parked, unparked;
    bool paused;            /* under park_lock, as the next two */
    unsigned parked_count;  /* vCPU threads that wait */
    unsigned running_count; /* vCPU threads that have not ended */

    struct lock end_lock;
    enum nido_end end; /* under end_lock, as the next */
    char *end_report;  /* lines for a person, or NULL; owned */
    int end_fd;        /* an eventfd, readable once the machine has ended */
};

/* Opens KVM, maps RAM (which the VM sees from machine_start on), creates interrupt controllers and vCPUs. */
int machine_create(struct machine **out, const struct machine_config *config,
                   struct nido_error *err);
void machine_destroy(struct machine *machine); /* takes NULL; stops first */

/* Owns the device from here on, also on failure. */
int machine_add_device(struct machine *machine, struct device *device, struct nido_error *err);

/* Pulses of `irq` reach the guest as an edge on its GSI. */
int machine_connect_irq(struct machine *machine, const struct irq *irq, struct nido_error *err);

/* A 4-byte guest write of `value` at `gpa` signals the eventfd without an exit to this process. */
int machine_connect_doorbell(struct machine *machine, uint64_t gpa, uint32_t value, int event_fd,
                             struct nido_error *err);

int machine_start(struct machine *machine, struct nido_error *err);

/* Any thread. The first call wins; `report` is copied, and may be NULL. Does not wait. */
void machine_end(struct machine *machine, enum nido_end end, const char *report);
/* *report, unless NULL, becomes the report or NULL; the machine's. */
enum nido_end machine_how_it_ended(struct machine *machine, const char **report);

/* Parks every vCPU and waits until they are; devices finish what is under way. Not from a vCPU thread. */
void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
bool machine_is_paused(struct machine *machine);

/* For vCPU threads: waits out a pause; has ended. */
void machine_park_vcpu(struct machine *machine, struct vcpu *vcpu);
void machine_vcpu_left(struct machine *machine);

/* Stops and joins every vCPU; not from a vCPU thread. May be called again. */
void machine_stop(struct machine *machine);

#endif
