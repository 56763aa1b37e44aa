/* SPDX-License-Identifier: Apache-2.0 */
#include "firmware/x86/aml.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <ctype.h>

/* ACPI 6.4, 20.3, "AML Byte Stream Byte Values". */
enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXTENDED = 0x5b,
    OP_NOTIFY = 0x86,
    EXTENDED_DEVICE = 0x82,
    ROOT = '\\',
};

static void put(struct aml *aml, const void *bytes, size_t length)
{
    if (aml->overflow || length > aml->capacity - aml->length) {
        aml->overflow = true;
        return;
    }
    memcpy(aml->bytes + aml->length, bytes, length);
    aml->length += length;
}

static void put_byte(struct aml *aml, uint8_t byte)
{
    put(aml, &byte, 1);
}

static void put_segment(struct aml *aml, const char *name)
{
    put(aml, name, 4);
}

/*
 * 20.2.4: a package length counts itself and takes one to four bytes. aml_end() makes room for it
 * in front of what was written since `mark`: nested lengths stay right, for the inner ones are
 * ended first and the outer ones count all.
 */
void aml_end(struct aml *aml, size_t mark)
{
    uint8_t field[4];
    size_t body = aml->length - mark;
    size_t bytes = body + 1 < 1u << 6 ? 1 : body + 2 < 1u << 12 ? 2 : body + 3 < 1u << 20 ? 3 : 4;
    size_t total = body + bytes;

    if (aml->overflow)
        return;
    field[0] = (uint8_t)(bytes == 1 ? total : (bytes - 1) << 6 | (total & 0x0f));
    for (size_t i = 1; i < bytes; i++)
        field[i] = (uint8_t)(total >> (8 * i - 4));
    put(aml, field, bytes); /* for its check of the room; moved to its place below */
    if (aml->overflow)
        return;
    memmove(aml->bytes + mark + bytes, aml->bytes + mark, body);
    memcpy(aml->bytes + mark, field, bytes);
}

size_t aml_scope_begin(struct aml *aml, const char *root_name)
{
    put_byte(aml, OP_SCOPE);
    size_t mark = aml->length;
    put_byte(aml, ROOT);
    put_segment(aml, root_name);
    return mark;
}

size_t aml_device_begin(struct aml *aml, const char *name)
{
    put_byte(aml, OP_EXTENDED);
    put_byte(aml, EXTENDED_DEVICE);
    size_t mark = aml->length;
    put_segment(aml, name);
    return mark;
}

size_t aml_method_begin(struct aml *aml, const char *name, unsigned arguments)
{
    put_byte(aml, OP_METHOD);
    size_t mark = aml->length;
    put_segment(aml, name);
    put_byte(aml, (uint8_t)arguments);
    return mark;
}

void aml_name(struct aml *aml, const char *name)
{
    put_byte(aml, OP_NAME);
    put_segment(aml, name);
}

void aml_root_name(struct aml *aml, const char *name)
{
    put_byte(aml, OP_NAME);
    put_byte(aml, ROOT);
    put_segment(aml, name);
}

void aml_integer(struct aml *aml, uint32_t value)
{
    uint8_t bytes[4];
    put_le32(bytes, value);
    if (value <= 1) {
        put_byte(aml, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        put_byte(aml, OP_BYTE);
        put(aml, bytes, 1);
    } else if (value <= UINT16_MAX) {
        put_byte(aml, OP_WORD);
        put(aml, bytes, 2);
    } else {
        put_byte(aml, OP_DWORD);
        put(aml, bytes, 4);
    }
}

void aml_string(struct aml *aml, const char *text)
{
    put_byte(aml, OP_STRING);
    put(aml, text, strlen(text) + 1);
}

static bool is_eisa_id(const char *id)
{
    if (strlen(id) != 7)
        return false;
    for (unsigned i = 0; i < 7; i++) {
        if (i < 3 ? !isupper((unsigned char)id[i]) : !isxdigit((unsigned char)id[i]))
            return false;
    }
    return true;
}

static unsigned hex_digit(char c)
{
    return isdigit((unsigned char)c) ? (unsigned)(c - '0') : (unsigned)(toupper(c) - 'A' + 10);
}

/* 19.3.4, "EISAID": three letters of five bits and four hex digits, big-endian. */
static uint32_t eisa_id(const char *id)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | (uint32_t)(id[i] - 'A' + 1);
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);
    return __builtin_bswap32(value);
}

void aml_hid(struct aml *aml, const char *id)
{
    aml_name(aml, "_HID");
    if (is_eisa_id(id))
        aml_integer(aml, eisa_id(id));
    else
        aml_string(aml, id);
}

size_t aml_package_begin(struct aml *aml, uint8_t elements)
{
    put_byte(aml, OP_PACKAGE);
    size_t mark = aml->length;
    put_byte(aml, elements);
    return mark;
}

void aml_notify(struct aml *aml, const char *name, uint8_t value)
{
    put_byte(aml, OP_NOTIFY);
    put_segment(aml, name);
    aml_integer(aml, value);
}

/* A template is a buffer: its size is an integer in front, known at the end only. Always written as
 * a byte, so that it can be filled in then. */
size_t aml_resources_begin(struct aml *aml)
{
    put_byte(aml, OP_BUFFER);
    size_t mark = aml->length;
    put_byte(aml, OP_BYTE);
    put_byte(aml, 0);
    return mark;
}

void aml_resources_end(struct aml *aml, size_t mark)
{
    static const uint8_t end_tag[] = {0x79, 0}; /* 6.4.2.9; 0: no checksum */
    put(aml, end_tag, sizeof(end_tag));
    size_t length = aml->length - mark - 2;
    if (length > UINT8_MAX)
        aml->overflow = true;
    if (!aml->overflow)
        aml->bytes[mark + 1] = (uint8_t)length;
    aml_end(aml, mark);
}

/* 6.4.2.5: a fixed range, all 16 address bits decoded. */
void aml_io(struct aml *aml, uint16_t port, uint8_t length_bytes)
{
    uint8_t bytes[8] = {[0] = 0x47, [1] = 1, [6] = 1, [7] = length_bytes};
    put_le16(bytes + 2, port);
    put_le16(bytes + 4, port);
    put(aml, bytes, sizeof(bytes));
}

/* 6.4.3.4: writable. */
void aml_memory32(struct aml *aml, uint32_t gpa, uint32_t length_bytes)
{
    uint8_t bytes[12] = {[0] = 0x86, [1] = 9, [3] = 1};
    put_le32(bytes + 4, gpa);
    put_le32(bytes + 8, length_bytes);
    put(aml, bytes, sizeof(bytes));
}

/* 6.4.3.6: one interrupt; consumer, edge, active high, exclusive. */
void aml_interrupt(struct aml *aml, uint32_t gsi)
{
    uint8_t bytes[9] = {[0] = 0x89, [1] = 6, [3] = 0x03, [4] = 1};
    put_le32(bytes + 5, gsi);
    put(aml, bytes, sizeof(bytes));
}
