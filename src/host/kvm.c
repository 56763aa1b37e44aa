/* SPDX-License-Identifier: Apache-2.0 */
#include "host/kvm.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int open_error(int code, struct nido_error *err)
{
    if (code == ENOENT || code == ENXIO || code == ENODEV)
        return error_set(
            err, code,
            "/dev/kvm: this host offers no KVM; enable virtualization in its firmware "
            "(or nested virtualization in its cloud) and load its module, kvm_intel or kvm_amd "
            "on x86");
    if (code == EACCES || code == EPERM)
        return error_set(err, code,
                         "/dev/kvm: permission denied; add yourself to its group with "
                         "'sudo usermod -aG kvm $USER' and log in again");
    return error_errno(err, code, "/dev/kvm: cannot open it");
}

int kvm_open(int *fd, struct nido_error *err)
{
    own_fd int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_fd < 0)
        return open_error(errno, err);
    int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return error_set(err, ENOTSUP, "/dev/kvm: its API version is %d, nido speaks %d", version,
                         KVM_API_VERSION);
    *fd = own_take_fd(&kvm_fd);
    return 0;
}

int kvm_capability(int fd, int cap)
{
    int value = ioctl(fd, KVM_CHECK_EXTENSION, cap);
    return value < 0 ? 0 : value;
}

int kvm_check_needs(int kvm_fd, const struct kvm_need *needs, unsigned count,
                    struct nido_error *err)
{
    for (unsigned i = 0; i < count; i++)
        if (!kvm_capability(kvm_fd, needs[i].cap))
            return error_set(err, ENOTSUP,
                             "/dev/kvm: the host's KVM lacks %s (%s); a newer kernel is needed",
                             needs[i].name, needs[i].why);
    return 0;
}

int kvm_create_vm(int kvm_fd, unsigned long type, int *vm_fd, struct nido_error *err)
{
    int fd;
    do
        fd = ioctl(kvm_fd, KVM_CREATE_VM, type);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return error_errno(err, errno, "/dev/kvm: cannot create a VM");
    *vm_fd = fd;
    return 0;
}

bool kvm_is_software(void)
{
    return access("/sys/module/kvm_pvm", F_OK) == 0;
}
