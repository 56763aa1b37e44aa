/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of nido's program in the guest, against one that behaves and many that do not. */
#include "lib/agent.h"

#include "firmware/guest/protocol.h"
#include "host/unix_listener.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

static struct bench {
    struct loop *loop;
    struct agent *agent;
    char directory[64], path[96];
    int control; /* the guest's */
    bool called, ready, broken, started, ended;
    char why[512];
    struct agent_exit how;
    unsigned job, stream_count;
    int streams[STREAM_KINDS];
    bool hurry; /* what the agent takes for a second is a millisecond */
} bench;

int __real_timerfd_settime(int fd, int flags, const struct itimerspec *in, struct itimerspec *old);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *in, struct itimerspec *old);

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *in, struct itimerspec *old)
{
    const struct itimerspec sooner = {.it_value.tv_nsec = in->it_value.tv_sec * 1000000};
    return __real_timerfd_settime(fd, flags, bench.hurry ? &sooner : in, old);
}

static void on_called(void *self)
{
    assert_false(bench.ready);
    bench.called = true;
}

static void on_ready(void *self)
{
    bench.ready = true;
}

static void on_broken(void *self, const char *why, bool hung_up)
{
    assert_false(bench.broken);
    assert_int_equal(hung_up, strstr(why, "has hung up") != NULL);
    bench.broken = true;
    snprintf(bench.why, sizeof(bench.why), "%s", why);
}

static void on_stream(void *self, unsigned stream, int fd)
{
    assert_false(bench.ended);
    assert_in_range(stream, 0, STREAM_KINDS - 1);
    bench.streams[stream] = fd;
    bench.stream_count++;
}

static void on_started(void *self)
{
    assert_false(bench.started);
    bench.started = true;
}

static void on_ended(void *self, const struct agent_exit *how)
{
    assert_false(bench.ended);
    bench.ended = true;
    bench.how = *how;
}

static const struct agent_ops ops = {.called = on_called, .ready = on_ready, .broken = on_broken};
static const struct agent_job_ops job_ops = {
    .stream = on_stream, .started = on_started, .ended = on_ended};
static char *const no_shares[] = {NULL};
static const struct agent_setup setup_of_tests = {.shares = no_shares,
                                                  .source = "root",
                                                  .fstype = "ext4",
                                                  .scratch = "",
                                                  .hostname = "test",
                                                  .resolver = ""};

static int set_up(void **state)
{
    struct nido_error err;
    bench = (struct bench){.control = -1, .directory = "/tmp/nido-test-agent.XXXXXX"};
    for (unsigned i = 0; i < STREAM_KINDS; i++)
        bench.streams[i] = -1;
    if (!mkdtemp(bench.directory))
        return -1;
    snprintf(bench.path, sizeof(bench.path), "%s/v", bench.directory);
    if (loop_create(&bench.loop, "test", &err) < 0)
        return -1;
    return agent_create(&bench.agent, bench.loop, bench.path, &setup_of_tests, &ops, NULL, &err);
}

static int tear_down(void **state)
{
    agent_destroy(bench.agent);
    loop_destroy(bench.loop);
    for (unsigned i = 0; i < STREAM_KINDS; i++)
        if (bench.streams[i] >= 0)
            close(bench.streams[i]);
    if (bench.control >= 0)
        close(bench.control);
    rmdir(bench.directory);
    return 0;
}

static void quit(struct loop_task *task)
{
    loop_quit(bench.loop);
}

/* The agent looks at what has come. A connection takes a turn to be taken, and one to be read. */
static void turn(void)
{
    for (unsigned i = 0; i < 4; i++) {
        struct loop_task task = {.run = quit};
        loop_post(bench.loop, &task);
        loop_run(bench.loop);
    }
}

static int call(void)
{
    char path[UNIX_PATH_BYTES];
    snprintf(path, sizeof(path), "%s_%u", bench.path, AGENT_PORT);
    int fd = unix_socket();
    assert_int_equal(unix_connect(fd, path), 0);
    return fd;
}

/* A frame of numbers; `count` of them. */
static void say_unheard(int fd, enum frame_kind kind, unsigned job, unsigned count,
                        const uint32_t *numbers)
{
    uint8_t bytes[256];
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), kind, job);
    for (unsigned i = 0; i < count; i++)
        frame_put_number(&writer, numbers[i]);
    size_t length = frame_end(&writer);
    assert_int_equal(send(fd, bytes, length, MSG_NOSIGNAL), length);
}

static void say(int fd, enum frame_kind kind, unsigned job, unsigned count, const uint32_t *numbers)
{
    say_unheard(fd, kind, job, count, numbers);
    turn();
}

#define SAY(fd, kind, job, ...)                                                                    \
    say(fd, kind, job, sizeof((uint32_t[]){__VA_ARGS__}) / 4, (uint32_t[]){__VA_ARGS__})
#define SAY_NOTHING_MORE(fd, kind, job) say(fd, kind, job, 0, NULL)

static void greet(void)
{
    bench.control = call();
    SAY(bench.control, FRAME_HELLO, 0, AGENT_VERSION);
}

/* The next frame that the guest was sent. */
static struct frame hear(uint8_t *bytes, size_t room)
{
    struct frame frame = {0};
    ssize_t n = recv(bench.control, bytes, room, MSG_PEEK);
    int64_t length = n > 0 ? frame_take(bytes, (size_t)n, FRAME_TO_GUEST_BYTES, &frame) : 0;
    assert_true(length > 0);
    assert_int_equal(recv(bench.control, bytes, (size_t)length, 0), length);
    return frame;
}

static void get_ready(void)
{
    uint8_t bytes[4096];
    greet();
    assert_int_equal(hear(bytes, sizeof(bytes)).kind, FRAME_SETUP);
    SAY_NOTHING_MORE(bench.control, FRAME_READY, 0);
    assert_true(bench.called && bench.ready);
}

static void ask(void)
{
    static char program[] = "true";
    static char *const argv[] = {program, NULL}, *const env[] = {NULL};
    uint8_t bytes[4096];
    struct nido_error err;
    const struct agent_command command = {
        .flags = COMMAND_STDIN, .argv = argv, .env = env, .directory = "/", .user = ""};
    assert_int_equal(agent_run(bench.agent, &command, &job_ops, NULL, &bench.job, &err), 0);
    assert_int_equal(hear(bytes, sizeof(bytes)).kind, FRAME_RUN);
}

static void expect_broken(const char *words)
{
    turn();
    assert_true(bench.broken);
    if (!strstr(bench.why, words))
        fail_msg("'%s' does not say '%s'", bench.why, words);
}

static bool is_closed(int fd)
{
    char byte;
    struct pollfd closed = {.fd = fd, .events = POLLIN};
    turn();
    return poll(&closed, 1, 0) == 1 && read(fd, &byte, 1) <= 0;
}

static void a_command_runs_and_ends(void **state)
{
    get_ready();
    ask();
    int stream = call();
    SAY(stream, FRAME_STREAM, bench.job, 1);
    assert_int_equal(bench.stream_count, 1);
    assert_true(bench.streams[1] >= 0);
    assert_false(bench.started);
    SAY_NOTHING_MORE(bench.control, FRAME_STARTED, bench.job);
    assert_true(bench.started);
    SAY(bench.control, FRAME_EXIT, bench.job, EXIT_SIGNAL, 9, 1);
    assert_true(bench.ended);
    assert_int_equal(bench.how.outcome, AGENT_KILLED);
    assert_int_equal(bench.how.value, 9);
    assert_int_equal(bench.how.oom_kills, 1);
    assert_false(bench.broken);
    close(stream);
}

/* The guest says all of it before nido looks: the streams wait in the queue when the end is read. */
static void streams_come_before_the_end(void **state)
{
    int streams[3], strangers[20];
    get_ready();
    ask();
    for (unsigned i = 0; i < 20; i++)
        strangers[i] = call();
    for (unsigned i = 0; i < 3; i++) {
        streams[i] = call();
        say_unheard(streams[i], FRAME_STREAM, bench.job, 1, &(uint32_t){i});
    }
    say_unheard(bench.control, FRAME_STARTED, bench.job, 0, NULL);
    say_unheard(bench.control, FRAME_EXIT, bench.job, 3, (uint32_t[]){EXIT_CODE, 3, 0});
    turn();
    assert_true(bench.started && bench.ended);
    assert_int_equal(bench.stream_count, 3);
    assert_false(bench.broken);
    for (unsigned i = 0; i < 20; i++)
        close(strangers[i]);
    for (unsigned i = 0; i < 3; i++)
        close(streams[i]);
}

/* A command's end is not put off for streams that never call. */
static void an_end_without_streams_is_an_end(void **state)
{
    get_ready();
    ask();
    SAY_NOTHING_MORE(bench.control, FRAME_STARTED, bench.job);
    SAY(bench.control, FRAME_EXIT, bench.job, EXIT_CODE, 3, 0);
    assert_true(bench.ended);
    assert_int_equal(bench.stream_count, 0);
    int late = call();
    SAY(late, FRAME_STREAM, bench.job, 1);
    assert_true(is_closed(late));
    assert_false(bench.broken);
    close(late);
}

static void a_command_that_is_missing_has_its_own_end(void **state)
{
    get_ready();
    ask();
    SAY(bench.control, FRAME_EXIT, bench.job, EXIT_NOT_FOUND, ENOENT, 0);
    assert_true(bench.ended);
    assert_int_equal(bench.how.outcome, AGENT_NOT_FOUND);
    assert_false(bench.started);
}

static void signals_reach_the_guest_while_the_command_runs(void **state)
{
    uint8_t bytes[4096];
    get_ready();
    agent_signal(bench.agent, 1, 15); /* there is none yet */
    ask();
    agent_signal(bench.agent, bench.job, 15);
    struct frame frame = hear(bytes, sizeof(bytes));
    struct frame_reader reader = {.at = frame.payload, .left = frame.length};
    assert_int_equal(frame.kind, FRAME_SIGNAL);
    assert_int_equal(frame.job, bench.job);
    assert_int_equal(frame_number(&reader), 15);
}

static void another_version_is_refused_by_number(void **state)
{
    bench.control = call();
    SAY(bench.control, FRAME_HELLO, 0, AGENT_VERSION + 1);
    expect_broken("version 2");
}

static void no_command_before_the_guest_is_ready(void **state)
{
    static char *const none[] = {NULL};
    const struct agent_command command = {.argv = none, .env = none, .directory = "", .user = ""};
    struct nido_error err;
    unsigned job;
    greet();
    assert_int_equal(agent_run(bench.agent, &command, &job_ops, NULL, &job, &err), -EAGAIN);
}

static void a_failure_is_told_without_its_control_characters(void **state)
{
    uint8_t bytes[256];
    greet();
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), FRAME_FAILED, 0);
    frame_put_text(&writer, "no root\x1b[2J\n");
    size_t length = frame_end(&writer);
    assert_int_equal(write(bench.control, bytes, length), length);
    expect_broken("the guest: no root?[2J?");
}

static void a_guest_that_hangs_up_is_noticed(void **state)
{
    get_ready();
    ask();
    close(bench.control);
    bench.control = -1;
    expect_broken("has hung up");
}

/* It still speaks, so nothing else tells. */
static void a_guest_that_hears_no_more_is_noticed(void **state)
{
    get_ready();
    ask();
    SAY_NOTHING_MORE(bench.control, FRAME_STARTED, bench.job);
    shutdown(bench.control, SHUT_RD);
    agent_signal(bench.agent, bench.job, 15);
    expect_broken("has hung up");
}

/* Whoever wants it to run something is told, too. */
static void a_guest_that_hears_no_more_runs_no_command(void **state)
{
    static char program[] = "true";
    static char *const argv[] = {program, NULL}, *const env[] = {NULL};
    const struct agent_command command = {.argv = argv, .env = env, .directory = "/", .user = ""};
    struct nido_error err;
    unsigned job;
    get_ready();
    shutdown(bench.control, SHUT_RD);
    assert_true(agent_run(bench.agent, &command, &job_ops, NULL, &job, &err) < 0);
    expect_broken("has hung up");
}

static void be_late(void)
{
    usleep((AGENT_PATIENCE_S + 20) * 1000);
    turn();
}

static void a_guest_that_says_nothing_is_given_up(void **state)
{
    get_ready();
    bench.hurry = true;
    ask();
    be_late();
    expect_broken("did not start a command");
}

/* It is waited for as long again once it goes on. */
static void a_guest_that_is_paused_is_not_late(void **state)
{
    get_ready();
    bench.hurry = true;
    ask();
    agent_set_paused(bench.agent, true);
    be_late();
    assert_false(bench.broken);
    bench.hurry = false;
    agent_set_paused(bench.agent, false);
    SAY_NOTHING_MORE(bench.control, FRAME_STARTED, bench.job);
    assert_true(bench.started);
    bench.hurry = true;
    agent_set_paused(bench.agent, true);
    ask();
    be_late();
    assert_false(bench.broken);
    agent_set_paused(bench.agent, false);
    be_late();
    expect_broken("did not start a command");
}

/* Each lie in a row: what is said when, and on which command. */
static void lies_break_the_agent_once(void **state)
{
    get_ready();
    ask();
    unsigned lie = *(unsigned *)*state;
    uint16_t job = (uint16_t)bench.job;
    switch (lie) {
    case 0:
        SAY_NOTHING_MORE(bench.control, FRAME_READY, 0);
        break;
    case 1:
        SAY_NOTHING_MORE(bench.control, FRAME_STARTED, job + 1u);
        break;
    case 2: /* it never started */
        SAY(bench.control, FRAME_EXIT, job, EXIT_CODE, 0, 0);
        break;
    case 3:
        SAY_NOTHING_MORE(bench.control, FRAME_STARTED, job);
        SAY(bench.control, FRAME_EXIT, job, EXIT_CODE, 256, 0);
        break;
    case 4:
        SAY_NOTHING_MORE(bench.control, FRAME_STARTED, job);
        SAY(bench.control, FRAME_EXIT, job, EXIT_SIGNAL, 0, 0);
        break;
    case 5:
        SAY_NOTHING_MORE(bench.control, FRAME_STARTED, job);
        SAY(bench.control, FRAME_EXIT, job, 77, 0, 0);
        break;
    case 6: /* something is left behind the last field */
        SAY_NOTHING_MORE(bench.control, FRAME_STARTED, job);
        SAY(bench.control, FRAME_EXIT, job, EXIT_CODE, 0, 0, 0);
        break;
    case 7: /* what only nido says */
        SAY(bench.control, FRAME_SIGNAL, job, 9);
        break;
    case 8:
        SAY(bench.control, FRAME_EXIT, 0xffff, EXIT_CODE, 0, 0);
        break;
    default: /* the length of a flood */
        assert_int_equal(write(bench.control, "\xff\xff\xff\xff\x05\0\1\0", 8), 8);
    }
    expect_broken("broke the protocol");
    assert_false(bench.ended);
    assert_true(is_closed(bench.control));
}

static void strangers_do_no_harm(void **state)
{
    get_ready();
    ask();
    int second = call(), wrong = call(), twice = call(), silent[40];
    SAY(second, FRAME_HELLO, 0, AGENT_VERSION);
    assert_true(is_closed(second));
    SAY(wrong, FRAME_STREAM, bench.job, 3); /* no terminal was asked for */
    assert_true(is_closed(wrong));
    SAY(twice, FRAME_STREAM, bench.job + 1, 1);
    assert_true(is_closed(twice));
    for (unsigned i = 0; i < 40; i++) {
        silent[i] = call();
        turn();
    }
    assert_true(is_closed(silent[0])); /* it made room */
    int stream = call();
    SAY(stream, FRAME_STREAM, bench.job, 2);
    assert_int_equal(bench.stream_count, 1);
    int again = call();
    SAY(again, FRAME_STREAM, bench.job, 2);
    assert_true(is_closed(again));
    assert_false(bench.broken);
    for (unsigned i = 0; i < 40; i++)
        close(silent[i]);
    close(second), close(wrong), close(twice), close(stream), close(again);
}

static void a_guest_that_does_not_listen_is_given_up(void **state)
{
    get_ready();
    ask();
    for (unsigned i = 0; i < 10000000 && !bench.broken; i++)
        agent_signal(bench.agent, bench.job, 1);
    expect_broken("does not read");
}

static void too_long_a_command_is_refused(void **state)
{
    static char *const none[] = {NULL};
    struct nido_error err;
    unsigned job;
    char *huge = calloc(1, FRAME_TO_GUEST_BYTES + 1);
    memset(huge, 'x', FRAME_TO_GUEST_BYTES);
    char *argv[] = {huge, NULL};
    const struct agent_command command = {.argv = argv, .env = none, .directory = "/", .user = ""};
    get_ready();
    assert_int_equal(agent_run(bench.agent, &command, &job_ops, NULL, &job, &err), -E2BIG);
    free(huge);
    assert_false(bench.broken);
}

int main(void)
{
    static unsigned lies[10];
    struct CMUnitTest liars[10];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_command_runs_and_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(streams_come_before_the_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_end_without_streams_is_an_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_command_that_is_missing_has_its_own_end, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(signals_reach_the_guest_while_the_command_runs, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(another_version_is_refused_by_number, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_command_before_the_guest_is_ready, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failure_is_told_without_its_control_characters, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_guest_that_hangs_up_is_noticed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_guest_that_hears_no_more_is_noticed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_guest_that_hears_no_more_runs_no_command, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_guest_that_says_nothing_is_given_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_guest_that_is_paused_is_not_late, set_up, tear_down),
        cmocka_unit_test_setup_teardown(strangers_do_no_harm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_guest_that_does_not_listen_is_given_up, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(too_long_a_command_is_refused, set_up, tear_down),
    };
    for (unsigned i = 0; i < 10; i++) {
        lies[i] = i;
        liars[i] = (struct CMUnitTest)cmocka_unit_test_prestate_setup_teardown(
            lies_break_the_agent_once, set_up, tear_down, &lies[i]);
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("lies", liars, NULL, NULL);
}
