/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/guest/protocol.h"

#include "base/bytes.h"

int64_t frame_take(const uint8_t *bytes, size_t count, size_t most, struct frame *frame)
{
    if (count < FRAME_HEADER_BYTES)
        return 0;
    size_t length = get_le32(bytes);
    if (length > most)
        return -1;
    if (count - FRAME_HEADER_BYTES < length)
        return 0;
    *frame = (struct frame){.kind = get_le16(bytes + 4),
                            .job = get_le16(bytes + 6),
                            .payload = bytes + FRAME_HEADER_BYTES,
                            .length = length};
    return (int64_t)(FRAME_HEADER_BYTES + length);
}

static const uint8_t *take(struct frame_reader *reader, size_t count)
{
    const uint8_t *at = reader->at;
    if (reader->bad || count > reader->left) {
        reader->bad = true;
        return NULL;
    }
    reader->at += count;
    reader->left -= count;
    return at;
}

uint32_t frame_number(struct frame_reader *reader)
{
    const uint8_t *at = take(reader, 4);
    return at ? get_le32(at) : 0;
}

const char *frame_text(struct frame_reader *reader)
{
    size_t length = frame_number(reader);
    const uint8_t *at = reader->left > length ? take(reader, length + 1) : NULL;
    if (at && memchr(at, '\0', length + 1) == at + length)
        return (const char *)at;
    reader->bad = true;
    return "";
}

bool frame_done(const struct frame_reader *reader)
{
    return !reader->bad && reader->left == 0;
}

static uint8_t *grow(struct frame_writer *writer, size_t count)
{
    if (writer->full || count > writer->room - writer->length) {
        writer->full = true;
        return NULL;
    }
    uint8_t *at = writer->bytes + writer->length;
    writer->length += count;
    return at;
}

struct frame_writer frame_begin(void *bytes, size_t room, enum frame_kind kind, unsigned job)
{
    struct frame_writer writer = {.bytes = bytes, .room = room};
    uint8_t *header = grow(&writer, FRAME_HEADER_BYTES);
    if (header) {
        put_le32(header, 0);
        put_le16(header + 4, (uint16_t)kind);
        put_le16(header + 6, (uint16_t)job);
    }
    return writer;
}

void frame_put_number(struct frame_writer *writer, uint32_t number)
{
    uint8_t *at = grow(writer, 4);
    if (at)
        put_le32(at, number);
}

void frame_put_text(struct frame_writer *writer, const char *text)
{
    size_t length = strlen(text);
    if (length > UINT32_MAX - 1) {
        writer->full = true;
        return;
    }
    frame_put_number(writer, (uint32_t)length);
    uint8_t *at = grow(writer, length + 1);
    if (at)
        memcpy(at, text, length + 1);
}

void frame_put_texts(struct frame_writer *writer, char *const *texts)
{
    uint32_t count = 0;
    while (texts && texts[count])
        count++;
    frame_put_number(writer, count);
    for (uint32_t i = 0; i < count; i++)
        frame_put_text(writer, texts[i]);
}

size_t frame_end(struct frame_writer *writer)
{
    if (writer->full)
        return 0;
    put_le32(writer->bytes, (uint32_t)(writer->length - FRAME_HEADER_BYTES));
    return writer->length;
}
