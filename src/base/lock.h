/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_BASE_LOCK_H
#define NIDO_BASE_LOCK_H

/*
 * A mutex that clang's thread-safety analysis understands: what is GUARDED_BY a lock can only be
 * touched while it is held, or the build fails. Held for a few instructions, never across a system
 * call.
 */

#include <pthread.h>

#if defined(__clang__)
#define THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define THREAD_ATTRIBUTE(x)
#endif

#define REQUIRES(lock)    THREAD_ATTRIBUTE(requires_capability(lock))
#define ACQUIRES(lock)    THREAD_ATTRIBUTE(acquire_capability(lock))
#define RELEASES(lock)    THREAD_ATTRIBUTE(release_capability(lock))
#define UNCHECKED_LOCKING THREAD_ATTRIBUTE(no_thread_safety_analysis)

struct THREAD_ATTRIBUTE(capability("lock")) lock {
    pthread_mutex_t mutex;
};

static inline void lock_init(struct lock *lock)
{
    pthread_mutex_init(&lock->mutex, NULL);
}

static inline void lock_finish(struct lock *lock)
{
    pthread_mutex_destroy(&lock->mutex);
}

static inline void lock_take(struct lock *lock) ACQUIRES(*lock) UNCHECKED_LOCKING
{
    pthread_mutex_lock(&lock->mutex);
}

static inline void lock_release(struct lock *lock) RELEASES(*lock) UNCHECKED_LOCKING
{
    pthread_mutex_unlock(&lock->mutex);
}

#endif
