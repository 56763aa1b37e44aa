/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include <errno.h>
#include <stddef.h>

/* vCPU and loop threads keep small frames; the default of 8 MiB only costs address space and page
 * tables, but a bound makes fifty vCPUs cheap under a memory limit too. */
#define STACK_BYTES ((size_t)256 << 10)

static void on_kick(int signal_number)
{
}

static void install_kick_handler(void)
{
    struct sigaction action = {.sa_handler = on_kick};
    sigemptyset(&action.sa_mask);
    sigaction(THREAD_KICK_SIGNAL, &action, NULL);
}

/* The new thread inherits the mask, so that no signal finds it unprepared. */
static int create_masked(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                         void *self)
{
    sigset_t masked, old;
    sigfillset(&masked);
    sigdelset(&masked, THREAD_KICK_SIGNAL);
    /* A fault of our own must still end the process with its usual signal. */
    sigdelset(&masked, SIGSEGV);
    sigdelset(&masked, SIGBUS);
    sigdelset(&masked, SIGILL);
    sigdelset(&masked, SIGFPE);
    sigdelset(&masked, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &masked, &old);
    int code = pthread_create(thread, attr, run, self);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return code;
}

int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *self,
                 struct nido_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_kick_handler);

    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int code = create_masked(thread, &attr, run, self);
    pthread_attr_destroy(&attr);
    if (code)
        return error_errno(err, code, "cannot start thread %s", name);
    pthread_setname_np(*thread, name);
    return 0;
}

void thread_kick(pthread_t thread)
{
    pthread_kill(thread, THREAD_KICK_SIGNAL);
}
