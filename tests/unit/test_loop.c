/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/thread.h"
#include "host/loop.h"

#include "cmocka_nido.h"

#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define POSTERS       4
#define POSTS_BY_EACH 2000

static int set_up(void **state)
{
    struct loop *loop;
    assert_int_equal(loop_create(&loop, "test", NULL), 0);
    *state = loop;
    return 0;
}

static int tear_down(void **state)
{
    loop_destroy(*state);
    return 0;
}

struct counting_task {
    struct loop_task task;
    struct loop *loop;
    _Atomic unsigned runs;
    sem_t ran;
};

static void count_run(struct loop_task *task)
{
    struct counting_task *counting = container_of(task, struct counting_task, task);
    atomic_fetch_add(&counting->runs, 1);
    sem_post(&counting->ran);
}

static void loop_runs_what_is_posted(void **state)
{
    struct counting_task counting = {.task.run = count_run};
    sem_init(&counting.ran, 0, 0);
    assert_int_equal(loop_start(*state, NULL), 0);
    loop_post(*state, &counting.task);
    sem_wait(&counting.ran);
    assert_int_equal(atomic_load(&counting.runs), 1);
}

static void loop_runs_what_was_posted_before_a_stop(void **state)
{
    struct counting_task counting = {.task.run = count_run};
    sem_init(&counting.ran, 0, 0);
    assert_int_equal(loop_start(*state, NULL), 0);
    loop_post(*state, &counting.task);
    loop_stop(*state);
    assert_int_equal(atomic_load(&counting.runs), 1);
}

static void *post_often(void *self)
{
    struct counting_task *counting = self;
    for (unsigned i = 0; i < POSTS_BY_EACH; i++) {
        loop_post(counting->loop, &counting->task);
        sem_wait(&counting->ran); /* each post of an idle task is one run */
    }
    return NULL;
}

static void loop_loses_no_post_of_many_threads(void **state)
{
    struct counting_task tasks[POSTERS];
    pthread_t threads[POSTERS];
    assert_int_equal(loop_start(*state, NULL), 0);
    for (unsigned i = 0; i < POSTERS; i++) {
        tasks[i] = (struct counting_task){.task.run = count_run, .loop = *state};
        sem_init(&tasks[i].ran, 0, 0);
        thread_start(&threads[i], "poster", post_often, &tasks[i], NULL);
    }
    for (unsigned i = 0; i < POSTERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(atomic_load(&tasks[i].runs), POSTS_BY_EACH);
    }
}

struct reader {
    struct loop_source source;
    struct loop *loop;
    size_t bytes;
};

static void read_some(struct loop_source *source, uint32_t events)
{
    struct reader *reader = container_of(source, struct reader, source);
    char buffer[100];
    ssize_t n = read(source->fd, buffer, sizeof(buffer));
    if (n > 0)
        reader->bytes += (size_t)n;
    else
        loop_quit(reader->loop);
}

static void loop_tells_when_a_descriptor_is_ready(void **state)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct reader reader = {.source = {.fd = ends[0], .events = EPOLLIN, .ready = read_some},
                            .loop = *state};
    assert_int_equal(loop_add(*state, &reader.source, NULL), 0);
    assert_int_equal(write(ends[1], "hello", 5), 5);
    close(ends[1]);
    loop_run(*state);
    assert_int_equal(reader.bytes, 5);
    loop_remove(*state, &reader.source);
    close(ends[0]);
}

struct hangup {
    struct loop_source source;
    struct loop *loop;
    uint32_t events;
};

static void note_and_leave(struct loop_source *source, uint32_t events)
{
    struct hangup *hangup = container_of(source, struct hangup, source);
    hangup->events |= events;
    loop_remove(hangup->loop, source);
    loop_quit(hangup->loop);
}

static void loop_tells_of_a_hangup_unasked(void **state)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct hangup hangup = {.source = {.fd = ends[0], .events = EPOLLIN, .ready = note_and_leave},
                            .loop = *state};
    assert_int_equal(loop_add(*state, &hangup.source, NULL), 0);
    loop_modify(*state, &hangup.source, 0);
    assert_int_equal(write(ends[1], "x", 1), 1); /* this is not told */
    close(ends[1]);
    loop_run(*state);
    assert_int_equal(hangup.events, EPOLLHUP);
    close(ends[0]);
}

static void loop_reads_regular_files_which_epoll_refuses(void **state)
{
    char path[] = "/tmp/nido-loop-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    assert_int_equal(ftruncate(fd, 1000), 0);
    struct reader reader = {.source = {.fd = fd, .events = EPOLLIN, .ready = read_some},
                            .loop = *state};
    assert_int_equal(loop_add(*state, &reader.source, NULL), 0);
    loop_run(*state);
    assert_int_equal(reader.bytes, 1000);
    loop_remove(*state, &reader.source);
    close(fd);
}

static void block_for_ever(struct loop_task *task)
{
    struct counting_task *counting = container_of(task, struct counting_task, task);
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    sem_post(&counting->ran);
    assert_int_equal(read(ends[0], &byte, 1), -1);
    close(ends[0]);
    close(ends[1]);
    atomic_fetch_add(&counting->runs, 1);
}

static void loop_stop_breaks_a_handler_out_of_a_blocking_call(void **state)
{
    struct counting_task counting = {.task.run = block_for_ever};
    sem_init(&counting.ran, 0, 0);
    assert_int_equal(loop_start(*state, NULL), 0);
    loop_post(*state, &counting.task);
    sem_wait(&counting.ran);
    loop_stop(*state);
    assert_int_equal(atomic_load(&counting.runs), 1);
}

static void loop_call_waits_until_the_task_has_run(void **state)
{
    struct counting_task counting = {.task.run = count_run};
    sem_init(&counting.ran, 0, 0);
    assert_int_equal(loop_start(*state, NULL), 0);
    for (unsigned i = 1; i <= 100; i++) {
        loop_call(*state, &counting.task);
        assert_int_equal(atomic_load(&counting.runs), i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loop_runs_what_is_posted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loop_runs_what_was_posted_before_a_stop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loop_loses_no_post_of_many_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loop_tells_when_a_descriptor_is_ready, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loop_tells_of_a_hangup_unasked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loop_reads_regular_files_which_epoll_refuses, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(loop_stop_breaks_a_handler_out_of_a_blocking_call, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(loop_call_waits_until_the_task_has_run, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
