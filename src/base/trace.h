/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_BASE_TRACE_H
#define NIDO_BASE_TRACE_H

/*
 * What happened when: spans of time with a name, in the Chrome trace format, which Perfetto and
 * chrome://tracing open. Off, it costs one load of a flag. On, a span is one slot of a fixed array; when the
 * array is full, later spans are counted and left out.
 *
 * trace_enable() runs before there are other threads; spans come from any thread; the readers run when the
 * others have stopped.
 */

#include "base/clock.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TRACE_SPANS_MAX (1u << 17)

/* Rows of the picture: main's steps, the guest's phases, then one for each vCPU. */
enum { TRACE_ROW_NIDO, TRACE_ROW_GUEST, TRACE_ROW_VCPU };

extern bool trace_enabled;

int trace_enable(struct nido_error *err);
void trace_disable(void); /* forgets everything */

/* `name` outlives the trace. */
void trace_add(const char *name, unsigned row, uint64_t start_ns, uint64_t end_ns);

static inline uint64_t trace_now(void)
{
    return trace_enabled ? clock_now_ns() : 0;
}

/* From trace_now() to now. */
static inline void trace_span(const char *name, unsigned row, uint64_t start_ns)
{
    if (trace_enabled)
        trace_add(name, row, start_ns, clock_now_ns());
}

bool trace_write(FILE *file); /* false: errno tells */

/* The spans of TRACE_ROW_NIDO and TRACE_ROW_GUEST as bars, for a person. */
void trace_print_bars(FILE *to);

#endif
