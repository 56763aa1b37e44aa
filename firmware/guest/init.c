/* SPDX-License-Identifier: Apache-2.0 */
/* The first process: start, the loop, the end. */
#include "firmware/guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_JOB 1u
#define FIXED_FDS 2u
#define POLL_FDS  (FIXED_FDS + AGENT_JOBS_MAX * JOB_PUMPS * 2u)

/* After the last word: nido ends the machine sooner than this. */
#define LAST_WORDS_MS 30000

static struct guest {
    int control, signals;
    uint8_t *bytes; /* of frames from nido */
    size_t count;
    bool over; /* the first job has ended: the machine goes with it */
    struct job jobs[AGENT_JOBS_MAX];
    struct pollfd fds[POLL_FDS];
} guest;

static void __attribute__((noreturn)) power_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

void die(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    dprintf(STDERR_FILENO, "nido: the guest: ");
    vdprintf(STDERR_FILENO, fmt, args);
    dprintf(STDERR_FILENO, "\n");
    va_end(args);
    power_off();
}

static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0)
        fd = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++)
        if (fd != i)
            dup2(fd, i);
    if (fd > 2)
        close(fd);
}

static void take_signals(void)
{
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    guest.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void say_hello(void)
{
    uint8_t bytes[64];
    guest.control = link_open();
    if (guest.control < 0)
        die("nido cannot be reached over vsock: %s", strerror(errno));
    struct frame_writer writer = frame_begin(bytes, sizeof(bytes), FRAME_HELLO, 0);
    frame_put_number(&writer, AGENT_VERSION);
    if (!link_send_frame(guest.control, &writer))
        die("nido is gone");
}

/* ---- what nido says ---- */

static char **read_texts(struct frame_reader *reader)
{
    uint32_t count = frame_number(reader);
    /* A text has five bytes at least. */
    char **texts = count <= reader->left / 5 ? calloc(count + 1, sizeof(*texts)) : NULL;
    if (!texts)
        die("nido's words make no sense");
    for (uint32_t i = 0; i < count; i++)
        texts[i] = (char *)(uintptr_t)frame_text(reader);
    return texts;
}

static void set_up(struct frame_reader *reader)
{
    uint8_t bytes[FRAME_TO_HOST_BYTES];
    char why[256] = "";
    struct setup setup = {.flags = frame_number(reader)};
    setup.source = frame_text(reader);
    setup.fstype = frame_text(reader);
    setup.scratch = frame_text(reader);
    setup.hostname = frame_text(reader);
    setup.resolver = frame_text(reader);
    setup.shares = read_texts(reader);
    if (!frame_done(reader))
        die("nido's words make no sense");
    int ret = root_enter(&setup, why, sizeof(why));
    network_loopback();
    if (ret == 0 && (setup.flags & SETUP_NETWORK))
        ret = network_configure(&setup, why, sizeof(why));
    struct frame_writer writer =
        frame_begin(bytes, sizeof(bytes), ret < 0 ? FRAME_FAILED : FRAME_READY, 0);
    if (ret < 0)
        frame_put_text(&writer, why);
    link_send_frame(guest.control, &writer);
    free(setup.shares);
}

static struct job *find_job(uint16_t id)
{
    for (unsigned i = 0; i < AGENT_JOBS_MAX; i++)
        if (guest.jobs[i].id == id)
            return &guest.jobs[i];
    return NULL;
}

static void run(uint16_t id, struct frame_reader *reader)
{
    struct command command = {.flags = frame_number(reader)};
    struct job *job = find_job(0);
    command.rows = frame_number(reader);
    command.columns = frame_number(reader);
    command.argv = read_texts(reader);
    command.env = read_texts(reader);
    command.directory = frame_text(reader);
    command.user = frame_text(reader);
    if (!frame_done(reader) || !command.argv[0] || !job || id == 0)
        die("nido's words make no sense");
    job_start(job, id, &command, guest.control);
    free(command.argv);
    free(command.env);
}

static void take(const struct frame *frame)
{
    struct frame_reader reader = {.at = frame->payload, .left = frame->length};
    struct job *job = frame->job ? find_job(frame->job) : NULL;
    uint32_t first;
    switch (frame->kind) {
    case FRAME_SETUP:
        set_up(&reader);
        break;
    case FRAME_RUN:
        run(frame->job, &reader);
        break;
    case FRAME_SIGNAL:
        first = frame_number(&reader);
        if (job)
            job_signal(job, (int)first);
        break;
    case FRAME_RESIZE:
        first = frame_number(&reader);
        if (job)
            job_resize(job, first, frame_number(&reader));
        break;
    default:
        die("nido says something unknown: %u", frame->kind);
    }
}

static void listen_to_nido(void)
{
    struct frame frame;
    int64_t length;
    ssize_t n = read(guest.control, guest.bytes + guest.count,
                     FRAME_HEADER_BYTES + FRAME_TO_GUEST_BYTES - guest.count);
    if (n < 0 && errno == EINTR)
        return;
    if (n <= 0)
        power_off();
    guest.count += (size_t)n;
    while ((length = frame_take(guest.bytes, guest.count, FRAME_TO_GUEST_BYTES, &frame)) > 0) {
        take(&frame);
        guest.count -= (size_t)length;
        memmove(guest.bytes, guest.bytes + length, guest.count);
    }
    if (length < 0)
        die("nido's words make no sense");
}

/* ---- what processes do ---- */

/* The machine is the first job's: what it leaves running goes with it. */
static void end_everything(void)
{
    guest.over = true;
    kill(-1, SIGKILL);
}

static void reap(void)
{
    struct signalfd_siginfo info;
    pid_t pid;
    int status;
    while (read(guest.signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
        continue;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (unsigned i = 0; i < AGENT_JOBS_MAX; i++) {
            struct job *job = &guest.jobs[i];
            if (!job->id || job->pid != pid || job->dead)
                continue;
            if (job->id == FIRST_JOB)
                end_everything();
            job_died(job, status);
        }
}

static void finish_jobs(void)
{
    for (unsigned i = 0; i < AGENT_JOBS_MAX; i++) {
        struct job *job = &guest.jobs[i];
        if (!job->id || !job_is_over(job))
            continue;
        /* What it wrote to disks is there before anybody hears that it is done. */
        if (job->id == FIRST_JOB)
            root_leave();
        job_finish(job, guest.control);
    }
}

/* ---- the loop ---- */

static struct pollfd *fds_of(unsigned job, unsigned pump)
{
    return &guest.fds[FIXED_FDS + (job * JOB_PUMPS + pump) * 2];
}

/* Whether a dead job's pump has something to do without any event. */
static bool gather(void)
{
    bool busy = false;
    guest.fds[0] = (struct pollfd){.fd = guest.control, .events = POLLIN};
    guest.fds[1] = (struct pollfd){.fd = guest.signals, .events = POLLIN};
    for (unsigned i = 0; i < AGENT_JOBS_MAX; i++)
        for (unsigned j = 0; j < JOB_PUMPS; j++) {
            const struct pump *pump = &guest.jobs[i].pumps[j];
            struct pollfd *fds = fds_of(i, j);
            fds[0].fd = fds[1].fd = -1;
            if (!guest.jobs[i].id || !pump_is_open(pump))
                continue;
            pump_wants(pump, fds);
            busy |= pump->last && pump->count == 0;
        }
    return busy;
}

static void turn(void)
{
    int timeout = gather() ? 0 : guest.over && !find_job(FIRST_JOB) ? LAST_WORDS_MS : -1;
    int ready = poll(guest.fds, POLL_FDS, timeout);
    if (ready == 0 && timeout > 0)
        power_off();
    for (unsigned i = 0; i < AGENT_JOBS_MAX; i++)
        for (unsigned j = 0; j < JOB_PUMPS; j++)
            if (guest.jobs[i].id)
                pump_work(&guest.jobs[i].pumps[j], fds_of(i, j));
    if (guest.fds[1].revents)
        reap();
    if (guest.fds[0].revents)
        listen_to_nido();
    finish_jobs();
}

int main(void)
{
    root_mount_basics();
    open_console();
    take_signals();
    modules_load_drivers();
    guest.bytes = malloc(FRAME_HEADER_BYTES + FRAME_TO_GUEST_BYTES);
    if (!guest.bytes)
        die("out of memory");
    say_hello();
    for (;;)
        turn();
}
