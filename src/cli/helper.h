/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_CLI_HELPER_H
#define NIDO_CLI_HELPER_H

/*
 * Other programs that nido starts and waits for. Each gets the signals' usual meaning, /dev/null where
 * it is given no descriptor, and a file in memory for its standard error: what it says last is the
 * reason when it fails.
 */

#include "base/error.h"

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

/* Descriptors 0 to 3 of the program; 2 is not the caller's to choose. */
#define HELPER_FDS 4u

struct helper {
    const char *name; /* for errors */
    pid_t pid;        /* 0: it was never started, or has been waited for */
    int words_fd;
    bool killed;
    int status; /* its exit status; where it was killed, the signal */
    char last_words[NIDO_ERROR_TEXT_BYTES];
};

/* Looks along PATH, and where administrators have their programs. -ENOENT: the sentence says which
 * package has it. */
int helper_find(const char *program, const char *package, char path[PATH_MAX],
                struct nido_error *err);

/* nido-unpack, which comes with nido. -ENOENT: this nido was built without. */
int helper_find_unpack(char path[PATH_MAX], struct nido_error *err);

/* `fds` -1: /dev/null, and no descriptor 3. `dies_with_us`: whatever ends nido. */
int helper_start(struct helper *helper, const char *path, char *const argv[],
                 const int fds[HELPER_FDS], bool dies_with_us, struct nido_error *err);

/* Until it ends. False: it failed; the rest of `helper` tells how. */
bool helper_succeeds(struct helper *helper);
/* Of one that failed: its last words, or what else is known. */
int helper_error(const struct helper *helper, struct nido_error *err);

/* Runs it to its end, and takes what it prints: one text of at most `answer_bytes` - 1. */
int helper_ask(const char *path, char *const argv[], char *answer, size_t answer_bytes,
               struct nido_error *err);
/* Reads `fd` to its end, as a text. */
int helper_read_answer(int fd, char *answer, size_t answer_bytes, struct nido_error *err);

#endif
