/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/vcpu.h"

#include "base/thread.h"
#include "base/trace.h"
#include "vm/arch.h"
#include "vm/exit.h"
#include "vm/machine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int vcpu_create(struct vcpu *vcpu, struct machine *machine, unsigned index, struct nido_error *err)
{
    vcpu->index = index;
    vcpu->machine = machine;
    vcpu->fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, index);
    if (vcpu->fd < 0)
        return error_errno(err, errno, "cannot create vCPU %u", index);
    int run_bytes = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_bytes < (int)sizeof(struct kvm_run))
        return error_set(err, EINVAL, "vCPU %u: KVM gives no run area", index);
    vcpu->run_bytes = (size_t)run_bytes;
    void *run = mmap(NULL, vcpu->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return error_errno(err, errno, "vCPU %u: cannot map its run area", index);
    vcpu->run = run;
    return arch_vcpu_init(vcpu, err);
}

void vcpu_finish(struct vcpu *vcpu)
{
    if (vcpu->run)
        munmap(vcpu->run, vcpu->run_bytes);
    if (vcpu->machine && vcpu->fd >= 0)
        close(vcpu->fd);
    memset(vcpu, 0, sizeof(*vcpu));
}

static bool run_failed(struct vcpu *vcpu, int code)
{
    char report[160];
    snprintf(report, sizeof(report), "vCPU %u: KVM_RUN failed: %s", vcpu->index, strerror(code));
    machine_end(vcpu->machine, NIDO_FAILED, report);
    return false;
}

/* A load and a store: nobody else writes, and a locked instruction would cost more than the exit's own work. */
static void count_exit(struct vcpu *vcpu)
{
    uint32_t reason = vcpu->run->exit_reason;
    _Atomic uint64_t *count = &vcpu->exits[reason < VCPU_EXIT_REASONS ? reason : 0];
    uint64_t old = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, old + 1, memory_order_relaxed);
}

static bool serve_exit(struct vcpu *vcpu)
{
    uint32_t reason = vcpu->run->exit_reason;
    uint64_t since = trace_now();
    bool go_on = exit_handle(vcpu);
    if (trace_enabled)
        trace_span(exit_name(reason), TRACE_ROW_VCPU + vcpu->index, since);
    return go_on;
}

/* True: go on. */
static bool run_once(struct vcpu *vcpu)
{
    if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
        count_exit(vcpu);
        return serve_exit(vcpu);
    }
    if (errno == EINTR) {
        /* Lowered before `stop` is looked at: a kick that comes after this one raises it again. */
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        return true;
    }
    if (errno == EAGAIN) /* an AP that got its INIT and waits for its SIPI */
        return true;
    return run_failed(vcpu, errno);
}

static void *run_thread(void *self)
{
    struct vcpu *vcpu = self;
    while (!atomic_load(&vcpu->stop)) {
        vcpu_park_if_asked(vcpu);
        if (!run_once(vcpu))
            break;
    }
    machine_vcpu_left(vcpu->machine);
    return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct nido_error *err)
{
    char name[16];
    snprintf(name, sizeof(name), "vcpu/%u", vcpu->index);
    int ret = thread_start(&vcpu->thread, name, run_thread, vcpu, err);
    vcpu->has_thread = ret == 0;
    return ret;
}

/* The flag makes a KVM_RUN that has not begun return; the signal one that has. */
static void kick(struct vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    thread_kick(vcpu->thread);
}

void vcpu_request_stop(struct vcpu *vcpu)
{
    if (!vcpu->has_thread)
        return;
    atomic_store(&vcpu->stop, true);
    kick(vcpu);
}

void vcpu_request_pause(struct vcpu *vcpu)
{
    if (!vcpu->has_thread)
        return;
    atomic_store(&vcpu->pause, true);
    kick(vcpu);
}

void vcpu_park_if_asked(struct vcpu *vcpu)
{
    if (!atomic_load(&vcpu->pause))
        return;
    machine_park_vcpu(vcpu->machine, vcpu);
    arch_vcpu_resumed(vcpu);
}

void vcpu_join(struct vcpu *vcpu)
{
    if (!vcpu->has_thread)
        return;
    pthread_join(vcpu->thread, NULL);
    vcpu->has_thread = false;
}
