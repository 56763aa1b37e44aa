/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/clock.h"
#include "host/port_end.h"
#include "host/unix_listener.h"

#include "tests/unit/cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT_MS 10000

/* A device that echoes: what it receives it sends, once `open`. Loop thread, but for the atomics. */
static struct {
    struct stream_guest line;
    uint8_t bytes[64];
    size_t count;
    _Atomic bool open;
    _Atomic int connections, departures;
} echo;

static size_t echo_room(struct stream_guest *line)
{
    return echo.open ? sizeof(echo.bytes) - echo.count : 0;
}

static size_t echo_receive(struct stream_guest *line, const uint8_t *bytes, size_t count)
{
    size_t taken = MIN(count, echo_room(line));
    memcpy(echo.bytes + echo.count, bytes, taken);
    echo.count += taken;
    stream_wake(line);
    return taken;
}

static size_t echo_pending(struct stream_guest *line, const uint8_t **bytes)
{
    *bytes = echo.bytes;
    return echo.count;
}

static void echo_consumed(struct stream_guest *line, size_t count)
{
    memmove(echo.bytes, echo.bytes + count, echo.count - count);
    echo.count -= count;
    stream_wake(line);
}

static const struct stream_guest_ops echo_ops = {
    .room = echo_room,
    .receive = echo_receive,
    .pending = echo_pending,
    .consumed = echo_consumed,
};

static void on_connected(void *self, bool connected)
{
    *(connected ? &echo.connections : &echo.departures) += 1;
}

static struct loop *loop;
static struct port_end *end;
static char directory[] = "/tmp/nido-port-XXXXXX", path[64];

static int set_up(void **state)
{
    memset(&echo, 0, sizeof(echo));
    echo.line.ops = &echo_ops;
    echo.open = true;
    strcpy(directory + strlen(directory) - 6, "XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/port", directory);
    return loop_create(&loop, "console", NULL);
}

static int tear_down(void **state)
{
    loop_stop(loop);
    port_end_destroy(end);
    end = NULL;
    loop_destroy(loop);
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", directory);
    return system(command);
}

static int create(enum port_end_kind kind, struct nido_error *err)
{
    struct port_end_config config = {
        .name = "--port work", .kind = kind, .path = path, .connected = on_connected};
    if (kind == PORT_END_FILE)
        config.out_fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return port_end_create(&end, loop, &echo.line, &config, err);
}

static void start(enum port_end_kind kind)
{
    assert_int_equal(create(kind, NULL), 0);
    assert_int_equal(loop_start(loop, NULL), 0);
}

static void wait_until(_Atomic int *number, int at_least)
{
    const uint64_t give_up_ns = clock_now_ns() + TIMEOUT_MS * 1000000ull;
    while (*number < at_least) {
        assert_true(clock_now_ns() < give_up_ns);
        usleep(1000);
    }
}

static int call(void)
{
    int fd = unix_socket();
    assert_int_equal(unix_connect(fd, path), 0);
    return fd;
}

static void expect(int fd, const char *text)
{
    char got[64];
    for (size_t done = 0; done < strlen(text);) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&readable, 1, TIMEOUT_MS), 1);
        ssize_t count = read(fd, got, strlen(text) - done);
        assert_true(count > 0);
        assert_memory_equal(got, text + done, (size_t)count);
        done += (size_t)count;
    }
}

static void socket_serves_one_client_after_the_other(void **state)
{
    start(PORT_END_SOCKET);
    for (int i = 0; i < 20; i++) {
        int fd = call();
        assert_int_equal(write(fd, "hello", 5), 5);
        expect(fd, "hello");
        assert_int_equal(echo.connections, i + 1);
        close(fd);
        wait_until(&echo.departures, i + 1);
    }
}

static void socket_lets_the_second_client_wait(void **state)
{
    start(PORT_END_SOCKET);
    int first = call(), second = call();
    assert_int_equal(write(second, "two", 3), 3);
    assert_int_equal(write(first, "one", 3), 3);
    expect(first, "one");
    assert_int_equal(echo.connections, 1);
    close(first);
    expect(second, "two");
    close(second);
}

static void socket_client_that_has_said_all_still_hears(void **state)
{
    start(PORT_END_SOCKET);
    int fd = call();
    assert_int_equal(write(fd, "question", 8), 8);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    expect(fd, "question");
    assert_int_equal(echo.departures, 0);
    close(fd);
    wait_until(&echo.departures, 1);
}

static void wake_guest(struct loop_task *task)
{
    stream_wake(&echo.line);
}

static void socket_leaves_last_words_to_a_guest_that_opens_late(void **state)
{
    struct loop_task task = {.run = wake_guest};
    echo.open = false;
    start(PORT_END_SOCKET);
    int fd = call();
    assert_int_equal(write(fd, "last words", 10), 10);
    close(fd);
    wait_until(&echo.connections, 1);
    usleep(20000);
    assert_int_equal(echo.departures, 0);
    echo.open = true;
    loop_call(loop, &task);
    wait_until(&echo.departures, 1);
}

static void socket_client_without_a_word_goes_unread(void **state)
{
    echo.open = false;
    start(PORT_END_SOCKET);
    for (int i = 0; i < 5; i++) {
        close(call());
        wait_until(&echo.departures, i + 1);
    }
}

static void socket_refuses_a_name_that_is_taken(void **state)
{
    struct nido_error err;
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(create(PORT_END_SOCKET, &err), -EEXIST);
    assert_non_null(strstr(err.text, "--port work"));
}

static void socket_is_gone_afterwards(void **state)
{
    assert_int_equal(create(PORT_END_SOCKET, NULL), 0);
    assert_int_equal(access(path, F_OK), 0);
    port_end_destroy(end);
    end = NULL;
    assert_int_equal(access(path, F_OK), -1);
}

static void file_takes_all_there_is(void **state)
{
    char got[32] = {0};
    memcpy(echo.bytes, "into the file", 13);
    echo.count = 13;
    start(PORT_END_FILE);
    assert_int_equal(echo.connections, 1);
    assert_int_equal(port_end_drain(end, -1), 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, got, sizeof(got)), 13);
    close(fd);
    assert_string_equal(got, "into the file");
}

static void pipes_wait_for_their_other_ends(void **state)
{
    char in[80], out[80];
    snprintf(in, sizeof(in), "%s.in", path);
    snprintf(out, sizeof(out), "%s.out", path);
    assert_int_equal(mkfifo(in, 0600) | mkfifo(out, 0600), 0);
    start(PORT_END_PIPE);
    for (unsigned i = 0; i < 3; i++) {
        int writer = open(in, O_WRONLY | O_CLOEXEC);
        assert_int_equal(write(writer, "through", 7), 7);
        close(writer);
        int reader = open(out, O_RDONLY | O_CLOEXEC);
        expect(reader, "through");
        close(reader);
    }
}

static void pipes_that_are_none_are_refused(void **state)
{
    struct nido_error err;
    char in[80];
    assert_int_equal(create(PORT_END_PIPE, &err), -ENOENT);
    assert_non_null(strstr(err.text, "mkfifo"));
    snprintf(in, sizeof(in), "%s.in", path);
    close(open(in, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(create(PORT_END_PIPE, &err), -EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        TEST(socket_serves_one_client_after_the_other),
        TEST(socket_lets_the_second_client_wait),
        TEST(socket_client_that_has_said_all_still_hears),
        TEST(socket_leaves_last_words_to_a_guest_that_opens_late),
        TEST(socket_client_without_a_word_goes_unread),
        TEST(socket_refuses_a_name_that_is_taken),
        TEST(socket_is_gone_afterwards),
        TEST(file_takes_all_there_is),
        TEST(pipes_wait_for_their_other_ends),
        TEST(pipes_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
