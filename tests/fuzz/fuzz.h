/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_TESTS_FUZZ_FUZZ_H
#define NIDO_TESTS_FUZZ_FUZZ_H

/* What fuzzers have alike. */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Unlike assert(), also in a build without assertions. */
#define PROMISE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            __builtin_trap();                                                                      \
    } while (0)

/* What is left of the bytes that a case is made of. */
struct input {
    const uint8_t *at;
    size_t left;
};

/* 0 when nothing is left. */
static inline uint8_t input_byte(struct input *input)
{
    if (!input->left)
        return 0;
    input->left--;
    return *input->at++;
}

#endif
