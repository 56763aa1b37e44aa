/* SPDX-License-Identifier: Apache-2.0 */
#include "base/trace.h"

#include "base/checked.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 40u

struct span {
    const char *name;
    unsigned row;
    uint64_t start_ns, end_ns;
};

bool trace_enabled;
static struct span *spans;
static _Atomic uint32_t span_count; /* runs on beyond the array */

int trace_enable(struct nido_error *err)
{
    spans = calloc(TRACE_SPANS_MAX, sizeof(*spans));
    if (!spans)
        return error_set(err, ENOMEM, "trace: out of memory");
    trace_enabled = true;
    return 0;
}

void trace_disable(void)
{
    trace_enabled = false;
    free(spans);
    spans = NULL;
    atomic_store(&span_count, 0);
}

void trace_add(const char *name, unsigned row, uint64_t start_ns, uint64_t end_ns)
{
    uint32_t index = atomic_load_explicit(&span_count, memory_order_relaxed);
    if (index >= TRACE_SPANS_MAX)
        return;
    index = atomic_fetch_add_explicit(&span_count, 1, memory_order_relaxed);
    if (index < TRACE_SPANS_MAX)
        spans[index] = (struct span){name, row, start_ns, end_ns};
}

static uint32_t stored_spans(void)
{
    return MIN(atomic_load(&span_count), TRACE_SPANS_MAX);
}

static uint64_t first_ns(void)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < stored_spans(); i++)
        first = MIN(first, spans[i].start_ns);
    return first;
}

static double us(uint64_t ns)
{
    return (double)ns / 1e3;
}

static void write_row_name(FILE *file, unsigned row, int pid)
{
    char name[16];
    if (row == TRACE_ROW_NIDO)
        strcpy(name, "nido");
    else if (row == TRACE_ROW_GUEST)
        strcpy(name, "guest");
    else
        snprintf(name, sizeof(name), "vcpu %u", row - TRACE_ROW_VCPU);
    fprintf(file,
            "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%u,"
            "\"args\":{\"name\":\"%s\"}},\n",
            pid, row, name);
}

/* The Trace Event Format: complete events ("X") and metadata ("M"). */
static void write_json(FILE *file)
{
    const int pid = (int)getpid();
    const uint64_t zero_ns = first_ns();
    unsigned rows = 0;
    for (uint32_t i = 0; i < stored_spans(); i++)
        rows = MAX(rows, spans[i].row + 1);
    fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", file);
    for (unsigned row = 0; row < rows; row++)
        write_row_name(file, row, pid);
    for (uint32_t i = 0; i < stored_spans(); i++)
        fprintf(file,
                "{\"ph\":\"X\",\"name\":\"%s\",\"pid\":%d,\"tid\":%u,\"ts\":%.3f,\"dur\":%.3f},\n",
                spans[i].name, pid, spans[i].row, us(spans[i].start_ns - zero_ns),
                us(spans[i].end_ns - spans[i].start_ns));
    fprintf(file,
            "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"nido\"}}\n],"
            "\"leftOut\":%u}\n",
            pid, atomic_load(&span_count) - stored_spans());
}

bool trace_write(FILE *file)
{
    write_json(file);
    return fflush(file) == 0 && !ferror(file);
}

static void print_bar(FILE *to, const struct span *span, uint64_t zero_ns, uint64_t total_ns)
{
    char bar[BAR_WIDTH + 1];
    unsigned from = (unsigned)((span->start_ns - zero_ns) * BAR_WIDTH / total_ns);
    unsigned until = (unsigned)((span->end_ns - zero_ns) * BAR_WIDTH / total_ns);
    memset(bar, ' ', BAR_WIDTH);
    from = MIN(from, BAR_WIDTH - 1);
    memset(bar + from, '#', MAX(MIN(until, BAR_WIDTH) - from, 1u));
    bar[BAR_WIDTH] = '\0';
    fprintf(to, "%-6s %-26s %10.1f ms |%s|\r\n", span->row == TRACE_ROW_NIDO ? "nido" : "guest",
            span->name, (double)(span->end_ns - span->start_ns) / 1e6, bar);
}

void trace_print_bars(FILE *to)
{
    const uint64_t zero_ns = first_ns();
    uint64_t end_ns = 0;
    for (uint32_t i = 0; i < stored_spans(); i++)
        end_ns = MAX(end_ns, spans[i].end_ns);
    for (uint32_t i = 0; i < stored_spans() && end_ns > zero_ns; i++)
        if (spans[i].row < TRACE_ROW_VCPU)
            print_bar(to, &spans[i], zero_ns, end_ns - zero_ns);
}
