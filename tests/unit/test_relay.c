/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes from one descriptor to another, and who hears of whose end. */
#include "host/relay.h"

#include "base/own.h"

#include "cmocka_nido.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANY_BYTES (3u << 20)

static struct loop *loop;
static struct relay *relay;
static bool ended;

static void on_end(void *self)
{
    ended = true;
    loop_quit(loop);
}

static int set_up(void **state)
{
    ended = false;
    relay = NULL;
    signal(SIGPIPE, SIG_IGN);
    return loop_create(&loop, "test", NULL);
}

static int tear_down(void **state)
{
    relay_destroy(relay);
    loop_destroy(loop);
    return 0;
}

static void start(enum relay_way way, int from, int to)
{
    struct nido_error err;
    if (relay_create(&relay, loop, way, from, to, NULL, on_end, NULL, &err) < 0)
        fail_msg("%s", err.text);
}

static void quit(struct loop_task *task)
{
    loop_quit(loop);
}

static void turn(void)
{
    for (unsigned i = 0; i < 4 && !ended; i++) {
        struct loop_task task = {.run = quit};
        loop_post(loop, &task);
        loop_run(loop);
    }
}

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 7 + i / 251);
}

static void *feed(void *fd)
{
    uint8_t *bytes = malloc(MANY_BYTES);
    for (size_t i = 0; i < MANY_BYTES; i++)
        bytes[i] = byte_at(i);
    for (size_t done = 0; done < MANY_BYTES;) {
        ssize_t n = write(*(int *)fd, bytes + done, MANY_BYTES - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    close(*(int *)fd);
    free(bytes);
    return NULL;
}

/* How many bytes came before the end or a wrong one. */
static void *eat(void *fd)
{
    uint8_t bytes[1000];
    size_t count = 0;
    ssize_t n;
    while ((n = read(*(int *)fd, bytes, sizeof(bytes))) > 0)
        for (ssize_t i = 0; i < n; i++)
            if (bytes[i] != byte_at(count++))
                return NULL;
    return (void *)count;
}

static void pass_many(enum relay_way way, int in[2], int out[2])
{
    pthread_t feeder, eater;
    void *count;
    start(way, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    pthread_create(&feeder, NULL, feed, &in[1]);
    pthread_create(&eater, NULL, eat, &out[0]);
    loop_run(loop);
    assert_true(ended);
    assert_false(relay_is_open(relay));
    pthread_join(feeder, NULL);
    pthread_join(eater, &count);
    assert_int_equal((size_t)count, MANY_BYTES);
    close(out[0]);
}

static void every_byte_passes_from_a_pipe_to_the_guest(void **state)
{
    int in[2], out[2];
    assert_int_equal(pipe(in), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, out), 0);
    pass_many(RELAY_TO_GUEST, in, out);
}

static void every_byte_passes_from_the_guest_to_a_pipe(void **state)
{
    int in[2], out[2];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, in), 0);
    int flags = fcntl(out[1], F_GETFL);
    pass_many(RELAY_FROM_GUEST, in, out);
    assert_false(flags & O_NONBLOCK);
}

static void a_file_goes_in_and_comes_out(void **state)
{
    int pair[2];
    char bytes[16], path[] = "/tmp/nido-test-relay.XXXXXX";
    own_fd int file = mkstemp(path);
    unlink(path);
    assert_int_equal(write(file, "content", 7), 7);
    assert_int_equal(lseek(file, 0, SEEK_SET), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    start(RELAY_TO_GUEST, file, pair[0]);
    loop_run(loop);
    assert_int_equal(read(pair[1], bytes, sizeof(bytes)), 7);
    /* The end as well, though somebody else holds the socket. */
    assert_int_equal(read(pair[1], bytes, sizeof(bytes)), 0);
    relay_destroy(relay);
    ended = false;
    start(RELAY_FROM_GUEST, pair[1], file);
    close(pair[0]);
    loop_run(loop);
    assert_true(ended);
    close(pair[1]);
}

/* Both are told of the byte, and one of them gets it. */
static void two_of_one_pipe_do_not_wait_for_each_other(void **state)
{
    int in[2], out[2], others[2];
    struct relay *other;
    char byte;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, others), 0);
    start(RELAY_TO_GUEST, in[0], out[0]);
    other = relay;
    start(RELAY_TO_GUEST, in[0], others[0]);
    assert_int_equal(write(in[1], "x", 1), 1);
    alarm(30); /* where one waits, nothing else ends it */
    turn();
    alarm(0);
    struct pollfd got[] = {{.fd = out[1], .events = POLLIN}, {.fd = others[1], .events = POLLIN}};
    assert_int_equal(poll(got, 2, 0), 1);
    assert_int_equal(read(got[0].revents ? out[1] : others[1], &byte, 1), 1);
    /* And both are told of the end. */
    close(in[1]);
    turn();
    assert_false(relay_is_open(other) && relay_is_open(relay));
    turn();
    relay_destroy(other);
    for (unsigned i = 0; i < 2; i++)
        close(out[i]), close(others[i]);
    close(in[0]);
}

static void the_guest_hears_that_nobody_reads(void **state)
{
    int in[2], out[2];
    char byte;
    assert_int_equal(pipe(out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, in), 0);
    start(RELAY_FROM_GUEST, in[0], out[1]);
    turn();
    assert_false(ended);
    close(out[0]);
    loop_run(loop);
    assert_true(ended);
    assert_int_equal(read(in[1], &byte, 1), 0);
    close(in[0]), close(in[1]), close(out[1]);
}

/* Standard input and output may be one socket that others use as well. */
static void a_strangers_socket_is_not_shut(void **state)
{
    int stranger[2], guest[2];
    char byte;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, stranger), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, guest), 0);
    start(RELAY_FROM_GUEST, guest[0], stranger[0]);
    close(guest[1]);
    loop_run(loop);
    assert_true(ended);
    assert_int_equal(write(stranger[0], "x", 1), 1);
    assert_int_equal(read(stranger[1], &byte, 1), 1);
    close(guest[0]), close(stranger[0]), close(stranger[1]);
}

static void a_slow_reader_is_known(void **state)
{
    static char many[1u << 20];
    int in[2], out[2];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, in), 0);
    start(RELAY_FROM_GUEST, in[0], out[1]);
    turn();
    assert_false(relay_waits_for_reader(relay));
    for (unsigned i = 0; i < 8; i++) {
        ssize_t ignored = write(in[1], many, sizeof(many));
        (void)ignored;
        turn();
    }
    assert_true(relay_waits_for_reader(relay));
    assert_false(ended);
    close(out[0]);
    loop_run(loop);
    assert_true(ended);
    assert_false(relay_waits_for_reader(relay));
    close(in[0]), close(in[1]), close(out[1]);
}

static void the_last_bytes_come_out(void **state)
{
    int in[2], out[2];
    char bytes[16];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, in), 0);
    start(RELAY_FROM_GUEST, in[0], out[1]);
    assert_int_equal(write(in[1], "last", 4), 4);
    relay_finish(relay, -1);
    assert_true(ended);
    assert_int_equal(read(out[0], bytes, sizeof(bytes)), 4);
    close(in[0]), close(in[1]), close(out[0]), close(out[1]);
}

/* The way to a pipe of another user's, whom it has to be left in blocking mode to. */
static void start_shared(int from, int to)
{
    assert_int_equal(fchmod(to, 0), 0);
    if (geteuid() == 0) {
        assert_int_equal(seteuid(65534), 0);
        start(RELAY_FROM_GUEST, from, to);
        assert_int_equal(seteuid(0), 0);
    } else {
        start(RELAY_FROM_GUEST, from, to);
    }
}

static void fill_up(int fd)
{
    static const char many[65536];
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (write(fd, many, sizeof(many)) > 0)
        ;
    fcntl(fd, F_SETFL, 0);
}

static void a_full_pipe_of_anothers_keeps_nobody(void **state)
{
    int in[2], out[2];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, in), 0);
    start_shared(in[0], out[1]);
    fill_up(out[1]);
    assert_int_equal(write(in[1], "last", 4), 4);
    alarm(20);
    turn();
    assert_false(ended);
    relay_finish(relay, -1);
    alarm(0);
    assert_true(ended);
    close(in[0]), close(in[1]), close(out[0]), close(out[1]);
}

static void a_terminal_of_anothers_keeps_nobody(void **state)
{
    static char lines[65536];
    int in[2], tty, master, size = sizeof(lines);
    memset(lines, '\n', sizeof(lines));
    assert_int_equal(openpty(&master, &tty, NULL, NULL, NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, in), 0);
    assert_int_equal(setsockopt(in[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    start_shared(in[0], tty);
    assert_int_equal(write(in[1], lines, sizeof(lines)), sizeof(lines));
    alarm(20);
    turn();
    assert_true(relay_waits_for_reader(relay));
    relay_finish(relay, -1);
    alarm(0);
    assert_true(ended);
    assert_int_equal(read(master, lines, 2), 2);
    assert_memory_equal(lines, "\r\n", 2);
    close(in[0]), close(in[1]), close(tty), close(master);
}

static void what_fits_into_anothers_pipe_comes_out(void **state)
{
    static char bytes[3 * 65536];
    int in[2], out[2], size = sizeof(bytes);
    assert_int_equal(pipe(out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, in), 0);
    assert_int_equal(setsockopt(in[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    start_shared(in[0], out[1]);
    ssize_t given = write(in[1], bytes, sizeof(bytes));
    int room = fcntl(out[1], F_GETPIPE_SZ);
    assert_true(given > room);
    alarm(20);
    relay_finish(relay, -1);
    alarm(0);
    assert_true(ended);
    assert_int_equal(read(out[0], bytes, sizeof(bytes)), room);
    close(in[0]), close(in[1]), close(out[0]), close(out[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_byte_passes_from_a_pipe_to_the_guest, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(every_byte_passes_from_the_guest_to_a_pipe, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_file_goes_in_and_comes_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_of_one_pipe_do_not_wait_for_each_other, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(the_guest_hears_that_nobody_reads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_strangers_socket_is_not_shut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slow_reader_is_known, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_last_bytes_come_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_pipe_of_anothers_keeps_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_terminal_of_anothers_keeps_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_fits_into_anothers_pipe_comes_out, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
