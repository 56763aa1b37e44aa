/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_HOST_KVM_H
#define NIDO_HOST_KVM_H

/* /dev/kvm and its VM file descriptor (Linux Documentation/virt/kvm/api.rst). */

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* One capability that nido cannot do without. */
struct kvm_need {
    int cap;
    const char *name; /* "KVM_CAP_IRQFD" */
    const char *why;  /* "interrupts without an exit" */
};

/* Opens /dev/kvm and checks the API version. *fd is the caller's. */
int kvm_open(int *fd, struct nido_error *err);

/* Fails with -ENOTSUP and the name of the first capability that is missing. */
int kvm_check_needs(int kvm_fd, const struct kvm_need *needs, unsigned count,
                    struct nido_error *err);

/* KVM_CHECK_EXTENSION on the system or a VM descriptor; 0 where unknown. */
int kvm_capability(int fd, int cap);

/* Makes an empty VM of an architecture's type (0 is the usual one). KVM_CREATE_VM is interruptible
 * and is repeated after EINTR. */
int kvm_create_vm(int kvm_fd, unsigned long type, int *vm_fd, struct nido_error *err);

/* True on a host whose KVM is the software kind that cannot take interrupts in guest kernel mode,
 * and so runs small guests but no Linux (the module is named kvm_pvm). */
bool kvm_is_software(void);

#endif
