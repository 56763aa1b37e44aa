/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_FIRMWARE_X86_AML_H
#define NIDO_FIRMWARE_X86_AML_H

/*
 * Writes ACPI Machine Language (ACPI 6.4, section 20.2) into a buffer of the caller's. Writing past
 * its end writes nothing and is remembered, so only the end result needs checking.
 *
 * What has a length (scope, device, method, package, resource template) is begun and ended; `begin`
 * returns a mark that the matching `end` takes.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *bytes;
    size_t length, capacity;
    bool overflow;
};

/* Names are four characters, one from A-Z and '_', the others also from 0-9. */
size_t aml_scope_begin(struct aml *aml, const char *root_name); /* "_SB_" for \_SB */
size_t aml_device_begin(struct aml *aml, const char *name);
size_t aml_method_begin(struct aml *aml, const char *name, unsigned arguments);
void aml_end(struct aml *aml, size_t mark);

/* Name (NAME, ...): the value is what is written next. */
void aml_name(struct aml *aml, const char *name);
void aml_root_name(struct aml *aml, const char *name); /* Name (\NAME, ...) */

void aml_integer(struct aml *aml, uint32_t value);
void aml_string(struct aml *aml, const char *text);
void aml_hid(struct aml *aml, const char *id); /* as an EISA id where it is one: "PNP0501" */

size_t aml_package_begin(struct aml *aml, uint8_t elements);

/* Inside a method: Notify (NAME, value). */
void aml_notify(struct aml *aml, const char *name, uint8_t value);

/* Buffer with a resource template (section 6.4). */
size_t aml_resources_begin(struct aml *aml);
void aml_resources_end(struct aml *aml, size_t mark);
void aml_io(struct aml *aml, uint16_t port, uint8_t length_bytes);
void aml_memory32(struct aml *aml, uint32_t gpa, uint32_t length_bytes);
void aml_interrupt(struct aml *aml, uint32_t gsi); /* edge-triggered, active high, exclusive */

#endif
