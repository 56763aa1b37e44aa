/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/job.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/environment.h"
#include "cli/exec.h"
#include "cli/kernels.h"
#include "cli/rundir.h"
#include "cli/scratch.h"
#include "cli/streams.h"
#include "firmware/guest/protocol.h"
#include "host/net_passt.h"
#include "lib/agent.h"
#include "lib/root_image.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define ROOT_SERIAL     "nido-root"
#define SCRATCH_SERIAL  "nido-scratch"
#define ROOT_TAG        "root"
#define GUEST_CID       3u
#define CMDLINE_BYTES   4096u
#define CMDLINE_OF_JOBS "quiet panic=-1 cryptomgr.notests"

/* A guest that panics or powers off takes the agent with it; the machine's end, which comes right
 * behind, tells more. */
#define LAST_MOMENT_S 2u

struct job {
    const struct job_flags *flags;
    struct loop *loop;
    struct agent *agent;
    struct stream_keys *keys;
    const struct job_ops *ops;
    void *self;
    int nowhere_fd; /* of a detached command's streams; -1: they are this process's own */

    struct stored_kernel kernel;
    struct root_image root;
    struct agent_setup setup;
    char tags[NIDO_SHARES_MAX][16], *shares[3 * NIDO_SHARES_MAX + 1];
    char *share_files[NIDO_SHARES_MAX]; /* from realpath() */
    char vsock_path[UNIX_PATH_BYTES], cmdline[CMDLINE_BYTES];

    unsigned number; /* of the command, in the guest; 0: it was not asked for yet */
    bool ended;      /* `how` tells */
    bool broken;     /* the agent: `why` tells */
    bool hung_up;    /* and all that it says is that */
    char why[NIDO_ERROR_TEXT_BYTES];
    bool is_over; /* and the owner knows */
    struct agent_exit how;
    struct job_times times;
    struct loop_source patience; /* with the machine's end */
    int scratch_fd;              /* -1: none */
    char scratch_path[32];
    struct streams streams;
    struct exec_sessions *exec; /* other commands */
};

/* ---- the machine for it ---- */

/* Nobody changes it meanwhile, as far as a guest knows that only reads it; the machine's other shares keep
 * their order. */
static int add_root_share(struct job *job, struct nido_config *machine, struct nido_error *err)
{
    if (machine->share_count == NIDO_SHARES_MAX)
        return error_set(err, E2BIG, "--root: %u shares are all that a machine has; leave out one",
                         NIDO_SHARES_MAX);
    bool read_only = !job->flags->write;
    machine->shares[machine->share_count++] =
        (struct nido_share){.path = job->flags->root,
                            .guest_path = "/",
                            .tag = ROOT_TAG,
                            .read_only = read_only,
                            .cache = read_only ? NIDO_SHARE_CACHE_ALWAYS : NIDO_SHARE_CACHE_AUTO,
                            .flat = true};
    job->setup.source = ROOT_TAG;
    job->setup.flags |= SETUP_SHARE;
    return 0;
}

static void set_network(struct job *job, const struct nido_config *machine)
{
    if (!machine->net_count || machine->nets[0].kind != NIDO_NET_USER)
        return;
    job->setup.flags |= SETUP_NETWORK;
    job->setup.resolver = net_passt_resolver(&machine->nets[0]);
}

/* What the guest mounts besides its root. */
/* The name of the file that a share is, as the guest finds it; "" for a directory. */
static const char *share_file(struct job *job, unsigned i, const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return "";
    job->share_files[i] = realpath(path, NULL);
    return job->share_files[i] ? strrchr(job->share_files[i], '/') + 1 : "";
}

static void set_shares(struct job *job, const struct nido_config *machine)
{
    for (unsigned i = 0; i < machine->share_count; i++) {
        const struct nido_share *share = &machine->shares[i];
        snprintf(job->tags[i], sizeof(job->tags[i]), "share%u", i);
        job->shares[3 * i] = share->tag ? (char *)(uintptr_t)share->tag : job->tags[i];
        job->shares[3 * i + 1] = (char *)(uintptr_t)share->guest_path;
        job->shares[3 * i + 2] = (char *)(uintptr_t)share_file(job, i, share->path);
    }
    job->setup.shares = job->shares;
}

static int add_root_disk(struct job *job, struct nido_config *machine, struct nido_error *err)
{
    if (machine->disk_count == NIDO_DISKS_MAX)
        return error_set(err, E2BIG, "--root: %u disks are all that a machine has; leave out one",
                         NIDO_DISKS_MAX);
    machine->disks[machine->disk_count++] = (struct nido_disk){.path = job->flags->root,
                                                               .id = ROOT_SERIAL,
                                                               .read_only = !job->flags->write,
                                                               .raw_for_sure = true};
    job->setup.source = ROOT_SERIAL;
    job->setup.fstype = job->root.fstype;
    return 0;
}

/* The disk opens the file by its descriptor, as it has no name any more. */
static int add_scratch(struct job *job, struct nido_config *machine, struct nido_error *err)
{
    if (!job->flags->scratch_bytes)
        return 0;
    if (machine->disk_count == NIDO_DISKS_MAX)
        return error_set(err, E2BIG,
                         "--scratch: %u disks are all that a machine has; leave out one",
                         NIDO_DISKS_MAX);
    int ret = scratch_create(job->flags->scratch_bytes, &job->scratch_fd, err);
    if (ret < 0)
        return ret;
    snprintf(job->scratch_path, sizeof(job->scratch_path), "/proc/self/fd/%d", job->scratch_fd);
    machine->disks[machine->disk_count++] = (struct nido_disk){
        .path = job->scratch_path, .id = SCRATCH_SERIAL, .raw_for_sure = true, .unsafe = true};
    job->setup.scratch = SCRATCH_SERIAL;
    return 0;
}

static int check_write(struct job *job, struct nido_error *err)
{
    if (!job->flags->write)
        return 0;
    job->setup.flags |= SETUP_WRITABLE;
    if (job->root.kind == ROOT_DIRECTORY || strcmp(job->root.fstype, "ext4") == 0)
        return 0;
    return error_set(err, EROFS,
                     "%s images cannot be written; leave out --write, or make a directory or an "
                     "ext4 image of it",
                     job->root.fstype);
}

static int set_root(struct job *job, struct nido_config *machine, struct nido_error *err)
{
    int ret = root_image_recognise(job->flags->root, &job->root, err);
    if (ret == 0)
        ret = check_write(job, err);
    if (ret < 0)
        return error_prefix(err, "--root %s", job->flags->root);
    set_shares(job, machine);
    set_network(job, machine);
    return job->root.kind == ROOT_DIRECTORY ? add_root_share(job, machine, err)
                                            : add_root_disk(job, machine, err);
}

static int set_kernel(struct job *job, struct nido_config *machine, struct nido_error *err)
{
    if (machine->initrd)
        return error_set(err, EINVAL, "--initrd: with --root the initrd is nido's own");
    int ret = kernels_choose(machine->kernel, &job->kernel, err);
    if (ret < 0)
        return ret;
    machine->kernel = job->kernel.kernel_path;
    machine->initrd = job->kernel.initrd_path;
    if (snprintf(job->cmdline, sizeof(job->cmdline), "%s %s", machine->cmdline, CMDLINE_OF_JOBS) >=
        (int)sizeof(job->cmdline))
        return error_set(err, E2BIG, "--cmdline: too long");
    machine->cmdline = job->cmdline;
    return 0;
}

static int set_vsock(struct job *job, const char *name, struct nido_config *machine,
                     struct nido_error *err)
{
    machine->vsock.guarded_port = AGENT_PORT;
    if (machine->vsock.cid) {
        snprintf(job->vsock_path, sizeof(job->vsock_path), "%s", machine->vsock.path);
        return 0;
    }
    int ret = rundir_vsock_path(name, job->vsock_path, err);
    if (ret < 0)
        return ret;
    machine->vsock.cid = GUEST_CID;
    machine->vsock.path = job->vsock_path;
    return 0;
}

int job_create(struct job **out, const struct job_flags *flags, const char *name,
               struct nido_config *machine, struct nido_error *err)
{
    struct job *job = calloc(1, sizeof(*job));
    if (!job)
        return error_set(err, ENOMEM, "out of memory");
    job->flags = flags;
    job->patience.fd = job->scratch_fd = job->nowhere_fd = -1;
    job->setup =
        (struct agent_setup){.fstype = "", .scratch = "", .hostname = name, .resolver = ""};
    int ret = set_root(job, machine, err);
    if (ret == 0)
        ret = add_scratch(job, machine, err);
    if (ret == 0)
        ret = set_kernel(job, machine, err);
    if (ret == 0)
        ret = set_vsock(job, name, machine, err);
    if (ret < 0) {
        job_destroy(job);
        return ret;
    }
    *out = job;
    return 0;
}

/* ---- its end ---- */

static void say_over(struct job *job)
{
    if (job->is_over)
        return;
    job->is_over = true;
    job->ops->over(job->self);
}

static void check_over(struct job *job)
{
    if (job->ended && !job->streams.expected)
        say_over(job);
}

static void on_patience(struct loop_source *source, uint32_t events)
{
    struct job *job = container_of(source, struct job, patience);
    uint64_t times;
    if (read(source->fd, &times, sizeof(times)) == (ssize_t)sizeof(times))
        say_over(job);
}

static void wait_for_machine(struct job *job)
{
    const struct itimerspec in = {.it_value.tv_sec = LAST_MOMENT_S};
    job->patience = (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC),
                                         .events = EPOLLIN,
                                         .ready = on_patience};
    timerfd_settime(job->patience.fd, 0, &in, NULL);
    loop_add(job->loop, &job->patience, NULL);
}

static void on_ended(void *self, const struct agent_exit *how)
{
    struct job *job = self;
    job->ended = true;
    job->how = *how;
    job->times.ended_ns = clock_now_ns();
    if (how->outcome == AGENT_NOT_FOUND || how->outcome == AGENT_NOT_STARTED) {
        log_error("%s: cannot be run: %s", job->flags->command[0], exec_trouble(how->value));
        job->streams.expected = 0;
    }
    streams_finish_soon(&job->streams);
    check_over(job);
}

static void on_broken(void *self, const char *why, bool hung_up)
{
    struct job *job = self;
    if (job->ended || job->broken)
        return;
    job->broken = true;
    job->hung_up = hung_up;
    snprintf(job->why, sizeof(job->why), "%s", why);
    if (hung_up)
        wait_for_machine(job);
    else
        say_over(job);
}

static void on_output_ended(void *self)
{
    check_over(self);
}

static void on_stream(void *self, unsigned stream, int fd)
{
    streams_connect(&((struct job *)self)->streams, stream, fd);
}

/* ---- its start ---- */

static void on_started(void *self)
{
    struct job *job = self;
    job->ops->started(job->self);
}

static const struct agent_job_ops job_ops = {
    .stream = on_stream, .started = on_started, .ended = on_ended};

static char **environment(const struct job_flags *flags)
{
    const char *given[JOB_ENV_MAX + 1];
    unsigned first = 0;
    if (flags->tty)
        given[first++] = "TERM";
    memcpy(given + first, flags->env, flags->env_count * sizeof(given[0]));
    return environment_make(json_object_get(flags->made.config, "env"), given,
                            first + flags->env_count);
}

static void on_called(void *self)
{
    ((struct job *)self)->times.called_ns = clock_now_ns();
}

static void on_ready(void *self)
{
    struct job *job = self;
    job->times.ready_ns = clock_now_ns();
    struct nido_error err;
    struct winsize size = {0};
    const struct job_flags *flags = job->flags;
    char **env = environment(flags);
    if (flags->tty)
        ioctl(STDIN_FILENO, TIOCGWINSZ, &size);
    const struct agent_command command = {
        .flags = (flags->tty ? COMMAND_TTY : COMMAND_STDIN) |
                 (flags->made.directory ? COMMAND_MAKE_DIRECTORY : 0),
        .rows = size.ws_row,
        .columns = size.ws_col,
        .argv = flags->command,
        .env = env,
        .directory = flags->directory ? flags->directory : "/",
        .user = flags->user ? flags->user : "",
    };
    streams_init(&job->streams, job->loop, job->keys, flags->tty, on_output_ended, job);
    if (job->nowhere_fd >= 0)
        streams_divert(&job->streams, job->nowhere_fd);
    if (agent_run(job->agent, &command, &job_ops, job, &job->number, &err) < 0)
        on_broken(job, err.text, false);
    environment_free(env);
}

static const struct agent_ops agent_ops = {
    .called = on_called, .ready = on_ready, .broken = on_broken};

int job_start(struct job *job, struct loop *loop, struct stream_keys *keys, bool detached,
              const struct job_ops *ops, void *self, struct nido_error *err)
{
    job->loop = loop;
    job->keys = keys;
    job->ops = ops;
    job->self = self;
    if (detached)
        job->nowhere_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (detached && job->nowhere_fd < 0)
        return error_errno(err, errno, "cannot open /dev/null");
    int ret = agent_create(&job->agent, loop, job->vsock_path, &job->setup, &agent_ops, job, err);
    return ret < 0 ? ret : exec_sessions_create(&job->exec, loop, job->agent, job->flags, err);
}

void job_destroy(struct job *job)
{
    if (!job)
        return;
    exec_sessions_destroy(job->exec);
    agent_destroy(job->agent);
    streams_close(&job->streams);
    if (job->scratch_fd >= 0)
        close(job->scratch_fd);
    if (job->nowhere_fd >= 0)
        close(job->nowhere_fd);
    if (job->patience.fd >= 0) {
        loop_remove(job->loop, &job->patience);
        close(job->patience.fd);
    }
    for (unsigned i = 0; i < NIDO_SHARES_MAX; i++)
        free(job->share_files[i]);
    free(job);
}

/* ---- from outside ---- */

int job_exec(struct job *job, const json_t *request, int fd, struct nido_error *err)
{
    return exec_begin(job->exec, request, fd, err);
}

bool job_signal(struct job *job, int number)
{
    if (!job->number || job->ended || job->broken)
        return false;
    agent_signal(job->agent, job->number, number);
    return true;
}

void job_resize(struct job *job)
{
    struct winsize size;
    if (job->number && !job->ended && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
        agent_resize(job->agent, job->number, size.ws_row, size.ws_col);
}

void job_set_paused(struct job *job, bool paused)
{
    agent_set_paused(job->agent, paused);
}

const struct job_times *job_times(const struct job *job)
{
    return &job->times;
}

void job_drain(struct job *job, int stop_fd)
{
    streams_drain(&job->streams, stop_fd);
}

static int status_of(const struct agent_exit *how)
{
    switch (how->outcome) {
    case AGENT_EXITED:
        return (int)how->value;
    case AGENT_KILLED:
        return EXIT_SIGNAL_BASE + (int)how->value;
    case AGENT_NOT_FOUND:
        return EXIT_COMMAND_NOT_FOUND;
    default:
        return EXIT_COMMAND_NOT_RUNNABLE;
    }
}

bool job_outcome(const struct job *job, bool machine_ended, struct job_outcome *outcome)
{
    static const char *const reasons[] = {[AGENT_EXITED] = "exited",
                                          [AGENT_KILLED] = "killed",
                                          [AGENT_NOT_FOUND] = "not-found",
                                          [AGENT_NOT_STARTED] = "not-runnable"};
    if (!job->ended && (!job->broken || (machine_ended && job->hung_up)))
        return false;
    if (!job->ended) {
        log_error("%s", job->why);
        *outcome =
            (struct job_outcome){.reason = "agent", .code = EXIT_GUEST_CRASHED, .broken = true};
        return true;
    }
    *outcome = (struct job_outcome){
        .reason = reasons[job->how.outcome],
        .code = status_of(&job->how),
        .signal = job->how.outcome == AGENT_KILLED ? (int)job->how.value : 0,
        .oom = job->how.oom_kills > 0,
    };
    return true;
}
