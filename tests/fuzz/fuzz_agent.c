/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that says anything: the input's first byte tells how far the conversation has come; the
 * rest goes through frame_take() and the reader as both ends use them.
 */
#include "firmware/guest/protocol.h"

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

/* All ways to read a payload; what is read must lie within it. */
static void read_payload(const struct frame *frame, uint8_t choices)
{
    struct frame_reader reader = {.at = frame->payload, .left = frame->length};
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *before = reader.at;
        if (choices & 1u << i) {
            const char *text = frame_text(&reader);
            size_t length = strlen(text);
            if (!reader.bad && before + 4 + length + 1 != reader.at)
                abort();
        } else {
            frame_number(&reader);
        }
        if (reader.at + reader.left != frame->payload + frame->length)
            abort();
    }
    if (reader.bad && frame_done(&reader))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame frame;
    if (size < 1)
        return 0;
    uint8_t choices = *data++;
    size--;
    /* A copy of its exact size: a byte too many is seen. */
    uint8_t *bytes = malloc(size ? size : 1);
    memcpy(bytes, data, size);
    for (size_t at = 0; at < size;) {
        int64_t length = frame_take(bytes + at, size - at, FRAME_TO_HOST_BYTES, &frame);
        if (length <= 0)
            break;
        if ((size_t)length != FRAME_HEADER_BYTES + frame.length ||
            frame.length > FRAME_TO_HOST_BYTES)
            abort();
        read_payload(&frame, choices);
        at += (size_t)length;
    }
    free(bytes);
    return 0;
}
