/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_GUEST_GUEST_H
#define NIDO_FIRMWARE_GUEST_GUEST_H

/*
 * nido's program inside the guest: the first process, from the initrd that nido makes. It mounts
 * what Linux needs, loads modules, calls nido over vsock, puts the root in place and runs the
 * commands that nido names.
 *
 *     init.c      the first process: start, the loop, the end
 *     modules.c   kernel modules, in the order that the initrd's list tells
 *     root.c      the root and what is mounted in it
 *     network.c   addresses for the card, by DHCP
 *     user.c      who a command runs as, by the root's own files
 *     command.c   a command: its start, its signals, its end
 *     copy.c      nido's own commands: files to nido and from it, by pack.c, unpack.c and tar.c
 *     pump.c      bytes between a command's pipes and nido
 *     link.c      connections to nido
 *     frame.c     what is said on them (shared with nido)
 *
 * One thread. Whatever goes wrong before a command runs is told to nido, or to the console while
 * there is no connection yet; then the machine is switched off.
 */

#include "firmware/guest/protocol.h"

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

/* ---- init.c ---- */

/* Says it on the kernel's console and switches the machine off. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- modules.c ---- */

/* Loads `name` and what it needs. A kernel that has it built in has no such module: no error. */
void modules_load(const char *name);
/* The bus, and the drivers of the devices on it. */
void modules_load_drivers(void);

/* ---- link.c ---- */

/* A connection to nido, or -1 and errno. */
int link_open(void);
/* The connection for a command's stream, or -1. */
int link_open_stream(unsigned job, unsigned stream);
/* Waits until all is sent; false: nido is gone. */
bool link_send(int fd, const void *bytes, size_t count);
bool link_send_frame(int fd, struct frame_writer *writer);

/* ---- root.c ---- */

struct setup {
    uint32_t flags; /* enum setup_flags */
    const char *source, *fstype;
    const char *scratch; /* the serial of the disk for what is written; "": memory */
    const char *hostname;
    const char *resolver; /* the name server where DHCP tells of none; "": there is none */
    /* Of each its tag, where it is to be, and the name of the one file that it is, or ""; NULL ends the list. */
    char **shares;
};

void root_mount_basics(void);
/* Puts the root in place and makes it /. 0, or -1 with words for a person. */
/* Those on the way too, as far as they can be made. */
void root_make_directories(const char *path);
int root_enter(const struct setup *setup, char *why, size_t why_bytes);
/* Makes that file, in place of what is there or at the end of the links that are there; a root that is written
 * stays as it is. -1 and errno: it cannot be made. */
int root_put_file(const struct setup *setup, const char *path, const char *text);
/* The last word on it: all that was written is there. */
void root_leave(void);

/* ---- network.c ---- */

void network_loopback(void);
int network_configure(const struct setup *setup, char *why, size_t why_bytes);

/* ---- user.c ---- */

#define USER_GROUPS_MAX 64

struct user {
    uid_t uid;
    gid_t gid;
    unsigned group_count;
    gid_t groups[USER_GROUPS_MAX];
    char home[256];
};

/* "NAME", "UID", "NAME:GROUP"...; "": root. -1: there is none of that name. */
int user_find(const char *text, struct user *user);

/* ---- pump.c ---- */

#define PUMP_BYTES 65536u

/* Bytes from one descriptor to another. Both are the pump's, and non-blocking. */
struct pump {
    int from, to; /* -1: closed */
    bool last;    /* the writer is dead: what is there now is all */
    size_t start, count;
    uint8_t *bytes;
};

bool pump_open(struct pump *pump, int from, int to);
void pump_close(struct pump *pump);
static inline bool pump_is_open(const struct pump *pump)
{
    return pump->to >= 0;
}
/* Two entries: for `from` and for `to`; fd -1 where nothing is waited for. */
void pump_wants(const struct pump *pump, struct pollfd fds[2]);
void pump_work(struct pump *pump, const struct pollfd fds[2]);

/* ---- command.c ---- */

struct command {
    uint32_t flags, rows, columns; /* enum command_flags */
    char **argv, **env;
    const char *directory, *user;
};

#define JOB_PUMPS 3u

struct job {
    uint16_t id; /* 0: free */
    pid_t pid;
    bool dead; /* its process has ended with `status` */
    int status;
    int terminal; /* the master's end; -1: none */
    struct pump pumps[JOB_PUMPS];
};

/* Runs it, and tells nido on `control`. */
void job_start(struct job *job, uint16_t id, const struct command *command, int control);
void job_signal(const struct job *job, int number);
void job_resize(const struct job *job, uint32_t rows, uint32_t columns);
/* Its process has ended. */
void job_died(struct job *job, int status);
/* Whether it is dead and all that it wrote is with nido. */
bool job_is_over(const struct job *job);
/* Tells nido how it ended, and frees the slot. */
void job_finish(struct job *job, int control);
/* How many processes the kernel has killed for want of memory. */
uint32_t job_oom_kills(void);

/* ---- copy.c ---- */

/* What a process does whose command has COMMAND_PACK or COMMAND_UNPACK. Returns its exit status. */
int copy_run(const struct command *command);

#endif
