/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "host/stream.h"

#include "tests/unit/cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define GUEST_BYTES 8192u

/* A device that is a buffer in each direction. */
struct fake_guest {
    struct stream_guest line;
    pthread_mutex_t lock;
    uint8_t in[GUEST_BYTES], out[GUEST_BYTES];
    size_t in_count, in_limit; /* takes bytes up to in_limit */
    size_t out_start, out_end;
};

static struct fake_guest guest;
static struct loop *loop;
static struct stream *stream;
static int in_pipe[2], out_pipe[2];
static _Atomic unsigned ended, closed;

static size_t guest_room(struct stream_guest *line)
{
    pthread_mutex_lock(&guest.lock);
    size_t room = guest.in_limit - guest.in_count;
    pthread_mutex_unlock(&guest.lock);
    return room;
}

static size_t guest_receive(struct stream_guest *line, const uint8_t *bytes, size_t count)
{
    pthread_mutex_lock(&guest.lock);
    size_t taken = MIN(count, guest.in_limit - guest.in_count);
    memcpy(guest.in + guest.in_count, bytes, taken);
    guest.in_count += taken;
    pthread_mutex_unlock(&guest.lock);
    return taken;
}

static size_t guest_pending(struct stream_guest *line, const uint8_t **bytes)
{
    pthread_mutex_lock(&guest.lock);
    size_t count = guest.out_end - guest.out_start;
    *bytes = guest.out + guest.out_start;
    pthread_mutex_unlock(&guest.lock);
    return count;
}

static void guest_consumed(struct stream_guest *line, size_t count)
{
    pthread_mutex_lock(&guest.lock);
    guest.out_start += count;
    pthread_mutex_unlock(&guest.lock);
}

static const struct stream_guest_ops guest_ops = {
    .room = guest_room,
    .receive = guest_receive,
    .pending = guest_pending,
    .consumed = guest_consumed,
};

static void guest_says(const char *text)
{
    pthread_mutex_lock(&guest.lock);
    memcpy(guest.out + guest.out_end, text, strlen(text));
    guest.out_end += strlen(text);
    pthread_mutex_unlock(&guest.lock);
    stream_wake(&guest.line);
}

static void guest_makes_room(size_t limit)
{
    pthread_mutex_lock(&guest.lock);
    guest.in_limit = limit;
    pthread_mutex_unlock(&guest.lock);
    stream_wake(&guest.line);
}

static size_t guest_heard(void)
{
    pthread_mutex_lock(&guest.lock);
    size_t count = guest.in_count;
    pthread_mutex_unlock(&guest.lock);
    return count;
}

/* Time passes until it is so. A test that never gets there is ended by the runner's limit. */
#define UNTIL(condition)                                                                           \
    while (!(condition))                                                                           \
    usleep(1000)

/* What the loop has been given by now has been done when this returns. */
static void nothing(struct loop_task *task)
{
}

static void let_the_loop_turn(void)
{
    for (unsigned i = 0; i < 3; i++) {
        struct loop_task task = {.run = nothing};
        loop_call(loop, &task);
    }
}

static void count_end(void *self)
{
    atomic_fetch_add(&ended, 1);
}

static void count_close(void *self)
{
    atomic_fetch_add(&closed, 1);
}

static int set_up(void **state)
{
    memset(&guest, 0, sizeof(guest));
    guest.line.ops = &guest_ops;
    pthread_mutex_init(&guest.lock, NULL);
    atomic_store(&ended, 0);
    atomic_store(&closed, 0);
    stream = NULL;
    assert_int_equal(pipe(in_pipe), 0);
    assert_int_equal(pipe(out_pipe), 0);
    assert_int_equal(loop_create(&loop, "console", NULL), 0);
    return 0;
}

static void close_if_open(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int tear_down(void **state)
{
    loop_stop(loop);
    stream_destroy(stream);
    loop_destroy(loop);
    for (unsigned i = 0; i < 2; i++) {
        close_if_open(&in_pipe[i]);
        close_if_open(&out_pipe[i]);
    }
    pthread_mutex_destroy(&guest.lock);
    return 0;
}

static void start_with(int in_fd, int out_fd, struct stream_guest *line, struct stream_keys *keys)
{
    const struct stream_config config = {
        .name = "console",
        .in_fd = in_fd,
        .out_fd = out_fd,
        .keys = keys,
        .input_ended = count_end,
        .output_closed = count_close,
    };
    assert_int_equal(stream_create(&stream, loop, line, &config, NULL), 0);
    assert_int_equal(loop_start(loop, NULL), 0);
}

static void start(int in_fd, int out_fd)
{
    start_with(in_fd, out_fd, &guest.line, NULL);
}

static size_t read_all(int fd, char *to, size_t count)
{
    size_t have = 0;
    while (have < count) {
        ssize_t got = read(fd, to + have, count - have);
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    return have;
}

static void assert_next_output(int fd, const char *expected)
{
    char bytes[256];
    assert_int_equal(read_all(fd, bytes, strlen(expected)), strlen(expected));
    assert_memory_equal(bytes, expected, strlen(expected));
}

/* Output */

static void stream_writes_what_the_guest_says(void **state)
{
    start(-1, out_pipe[1]);
    guest_says("hello ");
    guest_says("world");
    assert_next_output(out_pipe[0], "hello world");
    assert_int_equal(stream_drain(stream, -1), 0);
}

static void stream_leaves_descriptors_blocking(void **state)
{
    guest_makes_room(16);
    start(in_pipe[0], out_pipe[1]);
    guest_says("x");
    stream_drain(stream, -1);
    assert_false(fcntl(in_pipe[0], F_GETFL) & O_NONBLOCK);
    assert_false(fcntl(out_pipe[1], F_GETFL) & O_NONBLOCK);
}

static void stream_goes_on_when_nobody_reads(void **state)
{
    start(-1, out_pipe[1]);
    close_if_open(&out_pipe[0]);
    guest_says("lost");
    UNTIL(atomic_load(&closed) == 1);
    guest_says("lost, too");
    assert_int_equal(stream_drain(stream, -1), 0);
    assert_int_equal(guest.out_start, guest.out_end);
    assert_int_equal(atomic_load(&closed), 1);
}

static void stream_without_output_takes_all(void **state)
{
    start(-1, -1);
    guest_says("into the void");
    assert_int_equal(stream_drain(stream, -1), 0);
    assert_int_equal(guest.out_start, guest.out_end);
    assert_int_equal(atomic_load(&closed), 0);
}

static void fill_pipe(int fd)
{
    static const char zeroes[4096];
    int room = fcntl(fd, F_GETPIPE_SZ);
    for (int filled = 0; filled < room; filled += (int)sizeof(zeroes))
        assert_int_equal(write(fd, zeroes, sizeof(zeroes)), sizeof(zeroes));
}

static void stream_drain_waits_for_a_slow_reader(void **state)
{
    size_t room = (size_t)fcntl(out_pipe[1], F_GETPIPE_SZ);
    char *zeroes = malloc(room);
    fill_pipe(out_pipe[1]);
    start(-1, out_pipe[1]);
    guest_says("the last words");

    int stop_fd = eventfd(1, EFD_CLOEXEC); /* readable: do not wait */
    assert_int_equal(stream_drain(stream, stop_fd), -EINTR);
    assert_int_equal(read_all(out_pipe[0], zeroes, room), room);
    assert_int_equal(stream_drain(stream, -1), 0);
    assert_next_output(out_pipe[0], "the last words");
    close(stop_fd);
    free(zeroes);
}

static void stream_drain_forgets_one_that_was_given_up(void **state)
{
    size_t room = (size_t)fcntl(out_pipe[1], F_GETPIPE_SZ);
    char *zeroes = malloc(room);
    int stop_fd = eventfd(1, EFD_CLOEXEC);
    fill_pipe(out_pipe[1]);
    start(-1, out_pipe[1]);
    guest_says("late");
    assert_int_equal(stream_drain(stream, stop_fd), -EINTR);
    assert_int_equal(read_all(out_pipe[0], zeroes, room), room);
    assert_next_output(out_pipe[0], "late");
    let_the_loop_turn();

    fill_pipe(out_pipe[1]);
    guest_says("later");
    assert_int_equal(stream_drain(stream, stop_fd), -EINTR);
    close(stop_fd);
    free(zeroes);
}

static void guest_says_much(size_t count)
{
    pthread_mutex_lock(&guest.lock);
    assert_int_equal(guest.out_start, guest.out_end);
    memset(guest.out, 'x', count);
    guest.out_start = 0;
    guest.out_end = count;
    pthread_mutex_unlock(&guest.lock);
    stream_wake(&guest.line);
}

static bool guest_was_heard(void)
{
    pthread_mutex_lock(&guest.lock);
    bool heard = guest.out_start == guest.out_end;
    pthread_mutex_unlock(&guest.lock);
    return heard;
}

/* A terminal that nobody reads polls writable for the sake of a few bytes, and the write of a piece
 * sits in the kernel. */
static void stream_stops_while_a_write_blocks(void **state)
{
    int master, slave;
    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    start(-1, slave);
    unsigned quiet_ms = 0;
    guest_says_much(3000);
    while (quiet_ms < 50) {
        usleep(1000);
        quiet_ms++;
        if (guest_was_heard()) {
            guest_says_much(3000);
            quiet_ms = 0;
        }
    }
    loop_stop(loop);
    assert_false(guest_was_heard());
    close(master);
    close(slave);
}

static void stream_speaks_both_ways_over_one_socket(void **state)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    guest_makes_room(16);
    start(pair[0], pair[0]);
    guest_says("question");
    assert_next_output(pair[1], "question");
    assert_int_equal(write(pair[1], "answer", 6), 6);
    UNTIL(guest_heard() == 6);
    assert_memory_equal(guest.in, "answer", 6);
    loop_stop(loop);
    stream_destroy(stream);
    stream = NULL;
    close(pair[0]);
    close(pair[1]);
}

/* Input */

static void stream_reads_no_more_than_the_guest_takes(void **state)
{
    int left;
    assert_int_equal(write(in_pipe[1], "0123456789", 10), 10);
    start(in_pipe[0], -1);
    let_the_loop_turn();
    assert_int_equal(ioctl(in_pipe[0], FIONREAD, &left), 0);
    assert_int_equal(left, 10);
    guest_makes_room(4);
    UNTIL(guest_heard() == 4);
    let_the_loop_turn();
    assert_int_equal(ioctl(in_pipe[0], FIONREAD, &left), 0);
    assert_int_equal(left, 6);
    guest_makes_room(100);
    UNTIL(guest_heard() == 10);
    assert_memory_equal(guest.in, "0123456789", 10);
}

static void stream_tells_the_end_of_its_input_once(void **state)
{
    guest_makes_room(16);
    assert_int_equal(write(in_pipe[1], "bye", 3), 3);
    close_if_open(&in_pipe[1]);
    start(in_pipe[0], out_pipe[1]);
    UNTIL(atomic_load(&ended) == 1);
    assert_int_equal(guest_heard(), 3);
    guest_says("still here");
    assert_next_output(out_pipe[0], "still here");
    assert_int_equal(atomic_load(&ended), 1);
}

/* A writer that hangs up must not keep the loop busy while the guest does not read. */
static void stream_is_silent_about_a_hang_up_without_room(void **state)
{
    assert_int_equal(write(in_pipe[1], "x", 1), 1);
    close_if_open(&in_pipe[1]);
    start(in_pipe[0], -1);
    let_the_loop_turn();
    clockid_t clock;
    struct timespec before, after;
    /* The whole process sleeps in here, so its CPU time is the loop's. */
    assert_int_equal(clock_getcpuclockid(0, &clock), 0);
    clock_gettime(clock, &before);
    usleep(100000);
    clock_gettime(clock, &after);
    int64_t spent_ns =
        (after.tv_sec - before.tv_sec) * 1000000000LL + (after.tv_nsec - before.tv_nsec);
    assert_true(spent_ns < 50000000);
    assert_int_equal(atomic_load(&ended), 0);
}

static void stream_takes_regular_files_and_dev_null(void **state)
{
    FILE *from = tmpfile(), *to = tmpfile();
    char bytes[8];
    fputs("input", from);
    rewind(from);
    guest_makes_room(16);
    start(fileno(from), fileno(to));
    UNTIL(atomic_load(&ended) == 1);
    assert_memory_equal(guest.in, "input", 5);
    guest_says("output");
    stream_drain(stream, -1);
    assert_int_equal(pread(fileno(to), bytes, sizeof(bytes), 0), 6);
    assert_memory_equal(bytes, "output", 6);
    loop_stop(loop);
    stream_destroy(stream);
    stream = NULL;

    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    start(null_fd, null_fd);
    UNTIL(atomic_load(&ended) == 2);
    guest_says("nothing");
    assert_int_equal(stream_drain(stream, -1), 0);
    loop_stop(loop);
    stream_destroy(stream);
    stream = NULL;
    close(null_fd);
    fclose(from);
    fclose(to);
}

static void stream_survives_closed_descriptors(void **state)
{
    guest_makes_room(16);
    const int closed_fd = 999; /* nobody's */
    start(closed_fd, -1);
    UNTIL(atomic_load(&ended) == 1);
    loop_stop(loop);
    stream_destroy(stream);
    start(-1, closed_fd);
    guest_says("lost");
    UNTIL(atomic_load(&closed) == 1);
}

/* Keys */

struct fake_keys {
    struct stream_keys keys;
    _Atomic bool ours;
    _Atomic unsigned stars;
};

static bool keys_ready(struct stream_keys *keys)
{
    return atomic_load(&container_of(keys, struct fake_keys, keys)->ours);
}

/* Takes stars out. */
static size_t keys_filter(struct stream_keys *keys, uint8_t *bytes, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] == '*')
            atomic_fetch_add(&container_of(keys, struct fake_keys, keys)->stars, 1);
        else
            bytes[kept++] = bytes[i];
    }
    return kept;
}

static struct fake_keys fake_keys(bool ours)
{
    return (struct fake_keys){.keys = {.ready = keys_ready, .filter = keys_filter}, .ours = ours};
}

static void stream_finds_keys_while_the_guest_does_not_read(void **state)
{
    struct fake_keys keys = fake_keys(true);
    start_with(in_pipe[0], -1, &guest.line, &keys.keys);
    assert_int_equal(write(in_pipe[1], "ab*c*", 5), 5);
    UNTIL(atomic_load(&keys.stars) == 2);
    guest_makes_room(2);
    UNTIL(guest_heard() == 2);
    assert_int_equal(write(in_pipe[1], "*d", 2), 2);
    UNTIL(atomic_load(&keys.stars) == 3);
    guest_makes_room(16);
    UNTIL(guest_heard() == 4);
    assert_memory_equal(guest.in, "abcd", 4);
}

static void stream_holds_back_a_bounded_amount_of_keys(void **state)
{
    struct fake_keys keys = fake_keys(true);
    static char bytes[6000];
    int left = 0;
    memset(bytes, 'x', sizeof(bytes));
    start_with(in_pipe[0], -1, &guest.line, &keys.keys);
    assert_int_equal(write(in_pipe[1], bytes, sizeof(bytes)), sizeof(bytes));
    UNTIL(ioctl(in_pipe[0], FIONREAD, &left) == 0 && left == (int)sizeof(bytes) - 4096);
    let_the_loop_turn();
    assert_int_equal(ioctl(in_pipe[0], FIONREAD, &left), 0);
    assert_int_equal(left, sizeof(bytes) - 4096);
    guest_makes_room(GUEST_BYTES);
    UNTIL(guest_heard() == sizeof(bytes));
}

static void stream_waits_for_its_terminal_to_come_to_the_foreground(void **state)
{
    struct fake_keys keys = fake_keys(false);
    int left;
    guest_makes_room(16);
    start_with(in_pipe[0], -1, &guest.line, &keys.keys);
    assert_int_equal(write(in_pipe[1], "abc", 3), 3);
    let_the_loop_turn();
    assert_int_equal(ioctl(in_pipe[0], FIONREAD, &left), 0);
    assert_int_equal(left, 3);
    atomic_store(&keys.ours, true);
    UNTIL(guest_heard() == 3);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(stream_writes_what_the_guest_says),
        CASE(stream_leaves_descriptors_blocking),
        CASE(stream_goes_on_when_nobody_reads),
        CASE(stream_without_output_takes_all),
        CASE(stream_drain_waits_for_a_slow_reader),
        CASE(stream_drain_forgets_one_that_was_given_up),
        CASE(stream_stops_while_a_write_blocks),
        CASE(stream_speaks_both_ways_over_one_socket),
        CASE(stream_reads_no_more_than_the_guest_takes),
        CASE(stream_tells_the_end_of_its_input_once),
        CASE(stream_is_silent_about_a_hang_up_without_room),
        CASE(stream_takes_regular_files_and_dev_null),
        CASE(stream_survives_closed_descriptors),
        CASE(stream_finds_keys_while_the_guest_does_not_read),
        CASE(stream_holds_back_a_bounded_amount_of_keys),
        CASE(stream_waits_for_its_terminal_to_come_to_the_foreground),
    };
    return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
