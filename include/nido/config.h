/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CONFIG_H
#define NIDO_CONFIG_H

/* What a machine is to be made of. Strings are the caller's and must live until
 * nido_machine_create() has returned. Zero means the default, which the comment gives. */

#include <stdbool.h>
#include <stdint.h>

#define NIDO_CPUS_MAX  64u
#define NIDO_DISKS_MAX 8u
#define NIDO_NETS_MAX  4u

#define NIDO_DISK_ID_BYTES   20u
#define NIDO_DISK_QUEUES_MAX 16u
#define NIDO_PUBLISH_MAX     32u

enum nido_disk_format { NIDO_DISK_RAW, NIDO_DISK_QCOW2 };

struct nido_disk {
    const char *path;
    enum nido_disk_format format;
    const char *id; /* the serial number that the guest sees; NULL: vda, vdb, ... */
    bool read_only;
    bool direct;       /* bypass the host's page cache (O_DIRECT) */
    bool raw_for_sure; /* raw even if it starts like an image of another kind, as a guest may
                        * make it do */
    bool unsafe;       /* flushes do not wait for the storage */
    /* Writes go to a qcow2 image on top; `path` is only read, and machines can share it. */
    bool overlay;
    const char
        *overlay_path; /* that image, made if it is not there; NULL: thrown away at the end */
    unsigned queues;   /* 1 to 16; 0: one for each vCPU, at most 4 */
};

enum nido_net_kind { NIDO_NET_TAP, NIDO_NET_FD, NIDO_NET_USER };

/* A port of the host that leads into the guest. */
struct nido_publish {
    char address[46]; /* of the host, IPv4 or IPv6; "": all it has */
    uint16_t host_port, guest_port;
    bool udp;
};

struct nido_net {
    enum nido_net_kind kind;
    const char *tap; /* NIDO_NET_TAP: interface name */
    int fd;          /* NIDO_NET_FD: an open TAP; owned by the machine after a successful create */
    uint8_t mac[6];  /* all zero: made from the process id and index, locally administered */
    struct nido_publish publish[NIDO_PUBLISH_MAX]; /* NIDO_NET_USER */
    unsigned publish_count;
    bool host_loopback; /* NIDO_NET_USER: the guest reaches what listens on the host's 127.0.0.1 */
};

enum nido_console {
    NIDO_CONSOLE_STDIO,
    NIDO_CONSOLE_FILE,
    NIDO_CONSOLE_NONE,
    NIDO_CONSOLE_FD, /* console_fd, both ways */
};

#define NIDO_PORTS_MAX       6u
#define NIDO_PORT_NAME_BYTES 31u

enum nido_port_kind {
    NIDO_PORT_FILE,   /* what the guest sends is appended to `path` */
    NIDO_PORT_PIPE,   /* the FIFOs `path`.in (to the guest) and `path`.out */
    NIDO_PORT_SOCKET, /* a unix socket that the machine listens on */
    NIDO_PORT_STDIO,
};

/* A byte stream that the guest finds as /dev/virtio-ports/NAME. */
struct nido_port {
    const char *name; /* up to NIDO_PORT_NAME_BYTES */
    enum nido_port_kind kind;
    const char *path;
    bool console; /* another console in the guest (hvc1 and so on) */
};

/* Memory that the guest does not need goes back to the host. */
struct nido_balloon {
    bool present;
    bool no_reporting;         /* do not let the guest say which of its pages are free */
    uint64_t target_bytes;     /* taken away from the start; less than the machine has */
    unsigned stats_interval_s; /* the guest is asked for statistics so often; 0: on request only */
};

/* Sockets between guest and host: virtio-vsock, unix stream sockets on the host. */
struct nido_vsock {
    uint32_t cid; /* the guest's address, NIDO_VSOCK_CID_MIN to NIDO_VSOCK_CID_MAX; 0: no vsock */
    const char *path; /* the machine listens there; what the guest calls is at PATH_PORT */
    /* Answers only calls from ports below 1024, which Linux has its privileged programs alone use; 0: none does. */
    uint32_t guarded_port;
};

#define NIDO_VSOCK_CID_MIN 3u
#define NIDO_VSOCK_CID_MAX 4294967294u

/* How long the guest may believe what it has seen of a share, while the host changes it too. */
enum nido_share_cache {
    NIDO_SHARE_CACHE_AUTO,   /* names for a second, files until they are opened again */
    NIDO_SHARE_CACHE_ALWAYS, /* for good: nobody but this guest changes anything */
    NIDO_SHARE_CACHE_NONE,   /* not at all */
};

#define NIDO_SHARES_MAX      8u
#define NIDO_SHARE_TAG_BYTES 36u

/* A directory of the host, or a file, in the guest: mount -t virtiofs TAG GUEST_PATH. How many files
 * of all shares a guest may know at once is bounded by the process's RLIMIT_NOFILE. */
struct nido_share {
    const char *path; /* a directory; or a regular file, which is alone in its directory then */
    const char *guest_path; /* where the guest mounts it, from / on */
    const char
        *tag; /* up to NIDO_SHARE_TAG_BYTES; NULL: share0, share1, ... by the index. "root" is
                      * kept for a root directory */
    bool read_only;
    enum nido_share_cache cache;
    bool
        flat; /* what is mounted below is not told apart: an overlay of the guest can stand on it */
};

/* When the guest's kernel panics, and its pvpanic driver is loaded. */
enum nido_on_panic {
    NIDO_ON_PANIC_EXIT,     /* the machine ends: NIDO_PANICKED */
    NIDO_ON_PANIC_CONTINUE, /* the guest does what it likes: it may reboot, or stand still */
};

struct nido_config {
    const char *kernel;
    const char *initrd;       /* NULL: none */
    const char *cmdline;      /* NULL: "console=ttyS0", or hvc0 */
    unsigned cpus;            /* 1 to NIDO_CPUS_MAX; 0: 1 */
    uint64_t mem_bytes;       /* a multiple of 1 MiB, from 32 MiB; 0: 256 MiB */
    const char *kernel_cache; /* a directory for unpacked kernels; NULL: unpack each time */
    bool huge_pages;          /* RAM from the host's reserved 2 MiB pages */
    bool mem_merge;           /* the host's KSM may merge RAM; not with huge_pages */
    struct nido_disk disks[NIDO_DISKS_MAX];
    unsigned disk_count;
    struct nido_net nets[NIDO_NETS_MAX];
    unsigned net_count;
    struct nido_share shares[NIDO_SHARES_MAX];
    unsigned share_count;
    struct nido_balloon balloon;
    struct nido_vsock vsock;
    enum nido_on_panic on_panic;
    struct nido_port ports[NIDO_PORTS_MAX];
    unsigned port_count;
    enum nido_console console;
    bool console_virtio; /* the console is hvc0 and not the serial port */
    const char *console_file;
    int console_fd;        /* the caller's; open until the machine is destroyed */
    const char *dump_acpi; /* a directory for the ACPI tables; NULL: none */
    const char *dump_dtb;  /* a file for the device tree, where the machine has one; NULL: none */
};

#endif
