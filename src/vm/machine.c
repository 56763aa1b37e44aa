/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/machine.h"

#include "base/checked.h"
#include "vm/arch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int open_vm(struct machine *machine, uint64_t mem_bytes, struct nido_error *err)
{
    unsigned long type = 0;
    int ret = kvm_open(&machine->kvm_fd, err);
    if (ret == 0)
        ret = kvm_check_needs(machine->kvm_fd, arch_needs, arch_needs_count, err);
    if (ret == 0)
        ret = arch_vm_type(machine->kvm_fd, mem_bytes, &type, err);
    if (ret == 0)
        ret = kvm_create_vm(machine->kvm_fd, type, &machine->vm_fd, err);
    return ret;
}

static int add_slot(struct machine *machine, unsigned index, struct nido_error *err)
{
    struct mem_range range = mem_region(machine->mem, index);
    struct kvm_userspace_memory_region slot = {
        .slot = index,
        .guest_phys_addr = range.gpa,
        .memory_size = range.length_bytes,
        .userspace_addr =
            (uintptr_t)mem_for_write(machine->mem, range.gpa, (size_t)range.length_bytes),
    };
    if (ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
        return error_errno(err, errno, "cannot give the VM its RAM at 0x%llx",
                           (unsigned long long)range.gpa);
    return 0;
}

static int map_ram(struct machine *machine, const struct machine_config *config,
                   struct nido_error *err)
{
    struct mem_range ranges[MEM_REGIONS_MAX];
    unsigned count = arch_ram_ranges(config->mem_bytes, ranges);
    return mem_create(&machine->mem, ranges, count, config->backing, err);
}

/*
 * KVM gets the RAM last of all. A new memory slot waits for a grace period of the VM's SRCU, and so does, when
 * the VM ends, each registration of a device or doorbell that came after it: two waits where there need be
 * one, half of the time that a machine takes to come and go.
 */
static int give_ram(struct machine *machine, struct nido_error *err)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < mem_region_count(machine->mem); i++)
        ret = add_slot(machine, i, err);
    return ret;
}

static int add_vcpus(struct machine *machine, unsigned count, struct nido_error *err)
{
    int most = kvm_capability(machine->kvm_fd, KVM_CAP_MAX_VCPUS);
    if (most > 0 && count > (unsigned)most)
        return error_set(err, EINVAL, "--cpus %u: this host's KVM allows %d", count, most);
    machine->vcpus = calloc(count, sizeof(*machine->vcpus));
    if (!machine->vcpus)
        return error_set(err, ENOMEM, "out of memory for %u vCPUs", count);
    for (unsigned i = 0; i < count; i++) {
        machine->vcpu_count = i + 1;
        int ret = vcpu_create(&machine->vcpus[i], machine, i, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int build(struct machine *machine, const struct machine_config *config,
                 struct nido_error *err)
{
    machine->cpus = config->cpus;
    machine->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (machine->end_fd < 0)
        return error_errno(err, errno, "cannot make an eventfd");
    int ret = open_vm(machine, config->mem_bytes, err);
    if (ret == 0)
        ret = map_ram(machine, config, err);
    if (ret == 0)
        ret = arch_vm_init(machine, err);
    if (ret == 0)
        ret = add_vcpus(machine, config->cpus, err);
    if (ret == 0)
        ret = arch_vm_finish_init(machine, err);
    return ret;
}

int machine_create(struct machine **out, const struct machine_config *config,
                   struct nido_error *err)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    if (!machine)
        return error_set(err, ENOMEM, "out of memory");
    machine->kvm_fd = machine->vm_fd = machine->end_fd = -1;
    lock_init(&machine->end_lock);
    lock_init(&machine->park_lock);
    pthread_cond_init(&machine->parked, NULL);
    pthread_cond_init(&machine->unparked, NULL);
    bus_init(&machine->pio, "pio");
    bus_init(&machine->mmio, "mmio");
    int ret = build(machine, config, err);
    if (ret < 0) {
        machine_destroy(machine);
        return ret;
    }
    *out = machine;
    return 0;
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

void machine_destroy(struct machine *machine)
{
    if (!machine)
        return;
    machine_stop(machine);
    while (machine->device_count) {
        struct device *device = machine->devices[--machine->device_count];
        device->ops->destroy(device);
    }
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_finish(&machine->vcpus[i]);
    free(machine->vcpus);
    arch_vm_finish(machine);
    close_if_open(machine->vm_fd);
    close_if_open(machine->kvm_fd);
    close_if_open(machine->end_fd);
    mem_destroy(machine->mem);
    lock_finish(&machine->end_lock);
    lock_finish(&machine->park_lock);
    pthread_cond_destroy(&machine->parked);
    pthread_cond_destroy(&machine->unparked);
    free(machine->end_report);
    free(machine);
}

int machine_add_device(struct machine *machine, struct device *device, struct nido_error *err)
{
    if (machine->device_count == ARRAY_SIZE(machine->devices)) {
        int ret = error_set(err, ENOSPC, "%s: too many devices", device->name);
        device->ops->destroy(device);
        return ret;
    }
    machine->devices[machine->device_count++] = device;
    return 0;
}

int machine_connect_irq(struct machine *machine, const struct irq *irq, struct nido_error *err)
{
    struct kvm_irqfd irqfd = {.fd = (uint32_t)irq->fd, .gsi = irq->gsi};
    if (ioctl(machine->vm_fd, KVM_IRQFD, &irqfd) < 0)
        return error_errno(err, errno, "cannot connect interrupt %u (KVM_IRQFD)", irq->gsi);
    return 0;
}

int machine_connect_doorbell(struct machine *machine, uint64_t gpa, uint32_t value, int event_fd,
                             struct nido_error *err)
{
    struct kvm_ioeventfd doorbell = {
        .datamatch = value,
        .addr = gpa,
        .len = sizeof(uint32_t),
        .fd = event_fd,
        .flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
    };
    if (ioctl(machine->vm_fd, KVM_IOEVENTFD, &doorbell) < 0)
        return error_errno(err, errno, "cannot catch writes at 0x%llx (KVM_IOEVENTFD)",
                           (unsigned long long)gpa);
    return 0;
}

int machine_start(struct machine *machine, struct nido_error *err)
{
    int ret = give_ram(machine, err);
    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        lock_take(&machine->park_lock);
        machine->running_count++;
        lock_release(&machine->park_lock);
        ret = vcpu_start(&machine->vcpus[i], err);
        if (ret < 0) {
            machine_vcpu_left(machine);
            machine_stop(machine);
            return ret;
        }
    }
    return 0;
}

void machine_end(struct machine *machine, enum nido_end end, const char *report)
{
    lock_take(&machine->end_lock);
    if (machine->end == NIDO_RUNNING) {
        machine->end = end;
        machine->end_report = report ? strdup(report) : NULL;
    }
    lock_release(&machine->end_lock);
    /* The vCPU that brought the end about runs no further; the others are kicked by machine_stop(). */
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        atomic_store(&machine->vcpus[i].stop, true);
    const uint64_t one = 1;
    ssize_t ignored = write(machine->end_fd, &one, sizeof(one));
    (void)ignored;
}

enum nido_end machine_how_it_ended(struct machine *machine, const char **report)
{
    lock_take(&machine->end_lock);
    enum nido_end end = machine->end;
    if (report)
        *report = machine->end_report;
    lock_release(&machine->end_lock);
    return end;
}

void machine_pause(struct machine *machine)
{
    lock_take(&machine->park_lock);
    machine->paused = true;
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_request_pause(&machine->vcpus[i]);
    while (machine->paused && machine->parked_count < machine->running_count)
        pthread_cond_wait(&machine->parked, &machine->park_lock.mutex);
    if (machine->paused)
        arch_vm_paused(machine);
    lock_release(&machine->park_lock);
}

void machine_resume(struct machine *machine)
{
    lock_take(&machine->park_lock);
    if (machine->paused)
        arch_vm_resuming(machine);
    machine->paused = false;
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        atomic_store(&machine->vcpus[i].pause, false);
    pthread_cond_broadcast(&machine->unparked);
    pthread_cond_broadcast(&machine->parked);
    lock_release(&machine->park_lock);
}

bool machine_is_paused(struct machine *machine)
{
    lock_take(&machine->park_lock);
    bool paused = machine->paused;
    lock_release(&machine->park_lock);
    return paused;
}

void machine_park_vcpu(struct machine *machine, struct vcpu *vcpu)
{
    lock_take(&machine->park_lock);
    machine->parked_count++;
    pthread_cond_broadcast(&machine->parked);
    while (machine->paused && !atomic_load(&vcpu->stop))
        pthread_cond_wait(&machine->unparked, &machine->park_lock.mutex);
    machine->parked_count--;
    lock_release(&machine->park_lock);
}

void machine_vcpu_left(struct machine *machine)
{
    lock_take(&machine->park_lock);
    machine->running_count--;
    pthread_cond_broadcast(&machine->parked);
    lock_release(&machine->park_lock);
}

void machine_stop(struct machine *machine)
{
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_request_stop(&machine->vcpus[i]);
    machine_resume(machine);
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_join(&machine->vcpus[i]);
}
