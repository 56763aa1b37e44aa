/* SPDX-License-Identifier: Apache-2.0
 *
 * The floor: the least that any VMM on this host must do. Creates a VM with the in-kernel interrupt
 * chips and one vCPU, lets a guest of seven bytes print one byte and ask for a reset, and exits.
 * What nido costs beyond this is nido's own. The errors are terse: this is a measuring stick and
 * nobody's tool.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* mov $0x3f8,%dx; mov $'n',%al; out %al,(%dx); mov $0xfe,%al; out %al,$0x64 */
static const unsigned char guest[] = {0xba, 0xf8, 0x03, 0xb0, 'n', 0xee,
                                      0xb0, 0xfe, 0xe6, 0x64, 0xf4};

static int checked(int result, const char *what)
{
    if (result < 0)
        err(1, "floor: %s", what);
    return result;
}

static void start_in_real_mode(int vcpu)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};

    checked(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    checked(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    checked(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

int main(void)
{
    const size_t ram_bytes = 2 << 20;
    int kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");

    checked(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
    checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    char *ram = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED)
        err(1, "floor: guest RAM");
    memcpy(ram + 0x1000, guest, sizeof(guest));
    struct kvm_userspace_memory_region region = {.memory_size = ram_bytes,
                                                 .userspace_addr = (unsigned long)ram};
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");

    int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    int run_bytes = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        err(1, "floor: struct kvm_run");
    start_in_real_mode(vcpu);

    for (;;) {
        checked(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "floor: unexpected exit %u", run->exit_reason);
        if (run->io.port == 0x64)
            return 0;
        checked(write(STDOUT_FILENO, (char *)run + run->io.data_offset, 1), "standard output");
    }
}
