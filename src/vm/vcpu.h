/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_VM_VCPU_H
#define NIDO_VM_VCPU_H

/*
 * A vCPU and its thread: KVM_RUN, serve the exit, again. It blocks nowhere but in KVM_RUN; an
 * access that its device cannot take yet (DEVICE_STALL) is made again after a short sleep, and a
 * stop ends that too.
 */

#include "base/error.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct machine;

#define VCPU_EXIT_REASONS 32

struct vcpu {
    unsigned index;
    int fd;
    struct kvm_run *run;
    size_t run_bytes;
    struct machine *machine;
    pthread_t thread;
    bool has_thread;
    _Atomic bool stop;
    _Atomic bool pause; /* asked to park; see machine_pause() */
    /* Exits to this process by reason (KVM_EXIT_*; 0 stands for all others too); written by its thread. */
    _Atomic uint64_t exits[VCPU_EXIT_REASONS];
};

int vcpu_create(struct vcpu *vcpu, struct machine *machine, unsigned index, struct nido_error *err);
void vcpu_finish(struct vcpu *vcpu); /* takes a zeroed or half-built one */

int vcpu_start(struct vcpu *vcpu, struct nido_error *err);
void vcpu_request_stop(struct vcpu *vcpu);  /* any thread; does not wait */
void vcpu_request_pause(struct vcpu *vcpu); /* the same */
/* On the vCPU's thread: parks while the machine is paused. */
void vcpu_park_if_asked(struct vcpu *vcpu);
void vcpu_join(struct vcpu *vcpu);

#endif
