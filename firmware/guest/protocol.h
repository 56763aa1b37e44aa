/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_GUEST_PROTOCOL_H
#define NIDO_FIRMWARE_GUEST_PROTOCOL_H

/*
 * What nido and its program inside the guest say to each other; docs/guest-protocol.md tells the
 * story. Both ends are made from the same tree, and both compile this file.
 *
 * A frame is a header and a payload. All numbers are little-endian.
 *
 *     0  le32  payload's length
 *     4  le16  kind
 *     6  le16  job
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_PORT         28265u /* of vsock, on the host */
#define AGENT_VERSION      1u
#define FRAME_HEADER_BYTES 8u

/* What either end takes at most. A guest is told commands, a host only how they went. */
#define FRAME_TO_HOST_BYTES  1024u
#define FRAME_TO_GUEST_BYTES (2u << 20)

#define AGENT_JOBS_MAX 64u

enum frame_kind {
    /* From the guest. */
    FRAME_HELLO = 1,   /* version */
    FRAME_STREAM = 2,  /* descriptor; what follows on this connection are its bytes */
    FRAME_READY = 3,   /* the root is in place */
    FRAME_FAILED = 4,  /* text: why there is no root */
    FRAME_STARTED = 5, /* the command runs */
    FRAME_EXIT = 6,    /* enum exit_kind, value, processes killed for want of memory */
    /* From the host. */
    FRAME_SETUP = 16,  /* struct setup */
    FRAME_RUN = 17,    /* struct command */
    FRAME_SIGNAL = 18, /* number */
    FRAME_RESIZE = 19, /* rows, columns */
};

enum exit_kind {
    EXIT_CODE = 0,   /* value: 0 to 255 */
    EXIT_SIGNAL = 1, /* value: 1 to 64 */
    /* It never ran; value: errno. ESRCH: there is no such user; ELIBACC: no loader or interpreter for it; EDOTDOT:
     * its directory cannot be entered. */
    EXIT_NOT_FOUND = 2,
    EXIT_NOT_STARTED = 3 /* the same */
};

enum setup_flags {
    SETUP_SHARE = 1, /* the root is a virtio-fs share, `source` its tag; else a disk, its serial */
    SETUP_NETWORK = 2,  /* the first card has a DHCP server */
    SETUP_WRITABLE = 4, /* no overlay: the root itself is written */
};

enum command_flags {
    COMMAND_TTY = 1,
    COMMAND_STDIN = 2, /* else /dev/null */
    /* No command of the root's, but one of nido's own (copy.h); the arguments are paths. */
    COMMAND_PACK = 4,            /* these, as a tar stream on standard output */
    COMMAND_UNPACK = 8,          /* standard input, a tar stream, to the one there is */
    COMMAND_INTO = 16,           /* which must be a directory */
    COMMAND_SETUID = 32,         /* with the modes' three upper bits */
    COMMAND_MAKE_DIRECTORY = 64, /* the one it starts in, where it is missing */
};

/* Streams of a job, as in FRAME_STREAM: 0 to 2, or one for a terminal. */
#define STREAM_TTY   3u
#define STREAM_KINDS 4u

struct frame {
    uint16_t kind, job;
    const uint8_t *payload;
    size_t length;
};

/* Takes the frame at the start of `bytes`. Returns how many bytes it has, 0 where it is not whole
 * yet, or -1 where it is longer than `most` bytes of payload: nothing that follows makes sense. */
int64_t frame_take(const uint8_t *bytes, size_t count, size_t most, struct frame *frame);

/* Reads what a payload is made of. What is missing reads as 0 or "", and sets `bad`. */
struct frame_reader {
    const uint8_t *at;
    size_t left;
    bool bad;
};

uint32_t frame_number(struct frame_reader *reader);
/* le32 length, then bytes without a NUL among them, then a NUL: good as they lie there. */
const char *frame_text(struct frame_reader *reader);
/* Whether all was there, and nothing is left. */
bool frame_done(const struct frame_reader *reader);

/* Puts a frame together. What does not fit sets `full`. */
struct frame_writer {
    uint8_t *bytes;
    size_t room, length;
    bool full;
};

/* Begins a frame at the start of `bytes`. */
struct frame_writer frame_begin(void *bytes, size_t room, enum frame_kind kind, unsigned job);
void frame_put_number(struct frame_writer *writer, uint32_t number);
void frame_put_text(struct frame_writer *writer, const char *text);
/* A count, then the texts; NULL ends the list. */
void frame_put_texts(struct frame_writer *writer, char *const *texts);
/* The whole frame's length, 0 where it did not fit. */
size_t frame_end(struct frame_writer *writer);

#endif
