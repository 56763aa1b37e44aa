/* SPDX-License-Identifier: Apache-2.0 */
/* passt as our child: what it is told, what it answers, and that nothing is left of it. Part of the
 * tests have a script of ours in its place. */
#include "host/net_passt.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "tests/unit/net_bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define TIMEOUT_MS 20000

static struct loop *loop;
static char *real_path;          /* PATH */
static char place[PATH_MAX];     /* a directory of ours */
static const char *why_no_passt; /* the real one */

static int set_up(void **state)
{
    assert_int_equal(setenv("PATH", real_path, 1), 0);
    return loop_create(&loop, "test", NULL);
}

static int tear_down(void **state)
{
    loop_destroy(loop);
    /* No test leaves a process behind, not even a dead one. */
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    return 0;
}

#define NEEDS_PASST()                                                                              \
    do {                                                                                           \
        if (why_no_passt) {                                                                        \
            print_message("skipped: %s\n", why_no_passt);                                          \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

static struct nido_net wanted_net(const struct nido_publish *publish, unsigned count)
{
    struct nido_net net = {.kind = NIDO_NET_USER, .publish_count = count};
    for (unsigned i = 0; i < MIN(count, NIDO_PUBLISH_MAX); i++)
        net.publish[i] = publish[i];
    return net;
}

static const struct nido_net plain = {.kind = NIDO_NET_USER};

static struct net *open_passt(const struct nido_publish *publish, unsigned count)
{
    struct net *net = NULL;
    struct nido_error err = {0};
    const struct nido_net wanted = wanted_net(publish, count);
    if (net_open_passt(&net, &wanted, loop, &err))
        fail_msg("%s", err.text);
    return net;
}

static void expect_refused(const struct nido_publish *publish, unsigned count, const char *text)
{
    struct net *net = NULL;
    struct nido_error err = {0};
    const struct nido_net wanted = wanted_net(publish, count);
    assert_true(net_open_passt(&net, &wanted, loop, &err) < 0);
    assert_null(net);
    if (!strstr(err.text, text))
        fail_msg("'%s' lacks '%s'", err.text, text);
}

static pid_t pid_of(const struct net *net)
{
    int pid = 0;
    assert_int_equal(sscanf(net->name, "passt (pid %d)", &pid), 1);
    return pid;
}

/* ---- a script in place of passt ---- */

static void in_place(char path[PATH_MAX], const char *name)
{
    assert_true(snprintf(path, PATH_MAX, "%s/%s", place, name) < PATH_MAX);
}

/* What `text` does, passt does from now on, in our directory. */
static void play_passt(const char *text)
{
    char path[PATH_MAX], search[2 * PATH_MAX];
    in_place(path, "passt");
    own_file FILE *file = fopen(path, "we");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\ncd '%s'\n%s\n", place, text);
    assert_int_equal(fchmod(fileno(file), 0755), 0);
    snprintf(search, sizeof(search), "%s:/bin:/usr/bin", place);
    assert_int_equal(setenv("PATH", search, 1), 0);
}

/* Reads what the script has left in the file `name`. */
static void left_in(const char *name, char *text, size_t size)
{
    char path[PATH_MAX];
    in_place(path, name);
    own_file FILE *file = fopen(path, "re");
    assert_non_null(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    unlink(path);
}

static void passt_that_is_not_there_is_asked_for(void **state)
{
    setenv("PATH", "/nothing/here", 1);
    assert_false(net_passt_installed());
    expect_refused(NULL, 0, "passt is not installed; apt install passt");
    play_passt("exit 1");
    assert_true(net_passt_installed());
}

static void passt_that_does_not_start_is_quoted(void **state)
{
    play_passt("echo first >&2; echo The cat ate it, exiting >&2; exit 1");
    expect_refused(NULL, 0, "passt did not start: The cat ate it, exiting");
    play_passt("echo Real reason >&2; echo Failed to send 51 bytes to syslog >&2; exit 1");
    expect_refused(NULL, 0, "did not start: Real reason");
    play_passt("printf 'no \\033[2J\\001 newline\\n' >&2; exit 1");
    expect_refused(NULL, 0, "no ?[2J? newline");
    play_passt("head -c 100000 /dev/zero | tr '\\0' x; echo; exit 1");
    expect_refused(NULL, 0, "xxxx");
    play_passt("exit 1");
    expect_refused(NULL, 0, "it did not say why");
    play_passt("kill -9 $$");
    expect_refused(NULL, 0, "it did not say why");
}

static void passt_without_a_network_says_what_it_needs(void **state)
{
    play_passt("echo External interface not usable >&2; exit 1");
    expect_refused(NULL, 0, "default route");
}

/* Instead of the host's own; NULL: that. */
static const char *resolv_conf;

FILE *__real_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);

FILE *__wrap_fopen64(const char *path, const char *mode)
{
    if (!resolv_conf || strcmp(path, "/etc/resolv.conf") != 0)
        return __real_fopen64(path, mode);
    FILE *file = tmpfile();
    fputs(resolv_conf, file);
    rewind(file);
    return file;
}

/* What passt is told after its fixed words. */
static void words_with(const char *names, const struct nido_net *wanted, char *text, size_t size)
{
    static const char fixed[] = "--foreground --quiet --fd 3 --pid /proc/self/fd/1";
    struct net *net = NULL;
    struct nido_error err;
    char all[512];
    resolv_conf = names;
    play_passt("echo \"$@\" >args; exit 1");
    assert_true(net_open_passt(&net, wanted, loop, &err) < 0);
    resolv_conf = NULL;
    left_in("args", all, sizeof(all));
    assert_memory_equal(all, fixed, strlen(fixed));
    snprintf(text, size, "%s", all + strlen(fixed));
}

static void a_resolver_of_the_hosts_own_answers_the_guest(void **state)
{
    static const char plain_words[] = " --no-map-gw\n";
    static const char with_resolver[] = " --no-map-gw --dns-forward 169.254.1.1\n";
    static const struct {
        const char *names, *words;
    } cases[] = {
        {"# nameserver 127.0.0.53\n", plain_words},
        {"nameserver 10.9.0.53\n", plain_words},
        {"nameserver 127.0.0.53\nnameserver 10.9.0.53\n", plain_words},
        {"nameserver ::1\n", plain_words},
        /* Not for passt, which would send the questions to nowhere. */
        {"nameserver 127.0.0.53 # here\n", plain_words},
        {"nameserver 127.0.0.53\noptions edns0\n", with_resolver},
        {"search x\nnameserver fd00::1\nnameserver  127.0.0.1", with_resolver},
    };
    struct nido_net wanted = plain;
    char text[512];
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        words_with(cases[i].names, &wanted, text, sizeof(text));
        assert_string_equal(text, cases[i].words);
    }
    wanted.host_loopback = true;
    words_with("nameserver 127.0.0.53\n", &wanted, text, sizeof(text));
    assert_string_equal(text, "\n");
}

static void passt_is_told_the_ports(void **state)
{
    const struct nido_publish publish[] = {
        {.host_port = 18080, .guest_port = 80},
        {.address = "127.0.0.1", .host_port = 18443, .guest_port = 443},
        {.host_port = 15353, .guest_port = 53, .udp = true},
    };
    const struct nido_net wanted = wanted_net(publish, ARRAY_SIZE(publish));
    char text[512];
    words_with("", &wanted, text, sizeof(text));
    assert_string_equal(text, " --no-map-gw --tcp-ports 18080:80 --tcp-ports 127.0.0.1/18443:443 "
                              "--udp-ports 15353:53\n");
}

static void passt_hides_the_hosts_own_services_unless_told(void **state)
{
    struct nido_net wanted = plain;
    char text[512];
    wanted.host_loopback = true;
    words_with("", &wanted, text, sizeof(text));
    assert_null(strstr(text, "--no-map-gw"));
}

static void passt_is_told_addresses_without_brackets(void **state)
{
    char spec[NET_PUBLISH_SPEC_BYTES];
    const struct nido_publish longest = {
        .address = "2001:db8:1111:2222:3333:4444:255.255.255.255",
        .host_port = 65535,
        .guest_port = 65535,
    };
    net_publish_spec(spec,
                     &(struct nido_publish){.address = "::1", .host_port = 1, .guest_port = 2});
    assert_string_equal(spec, "::1/1:2");
    net_publish_spec(spec, &longest);
    assert_string_equal(spec, "2001:db8:1111:2222:3333:4444:255.255.255.255/65535:65535");
}

/* A mask of /proc/PID/status without the C library's own signals, which begin at 32. */
static unsigned signals_in(const char *status, const char *key)
{
    const char *line = strstr(status, key);
    assert_non_null(line);
    return (unsigned)strtoull(line + strlen(key), NULL, 16) & 0x7fffffff;
}

/* A descriptor that leaks into passt is the guest's disk in another process. */
static void passt_inherits_nothing_of_ours(void **state)
{
    char text[2048];
    own_fd int leak = open("/dev/null", O_RDWR);
    own_fd int high = fcntl(leak, F_DUPFD, 200);
    sigset_t set, old;
    assert_true(high >= 200);
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, &old);
    signal(SIGPIPE, SIG_IGN);
    /* 10 is the shell's own, its script. */
    play_passt("cat /proc/self/status >status; exec >fds; n=4; while [ $n -lt 256 ]; do\n"
               "[ $n -eq 10 ] || ! [ -e /proc/$$/fd/$n ] || echo $n; n=$((n + 1)); done\n"
               "exit 1");
    expect_refused(NULL, 0, "did not start");
    sigprocmask(SIG_SETMASK, &old, NULL);
    signal(SIGPIPE, SIG_DFL);
    left_in("fds", text, sizeof(text));
    assert_string_equal(text, "");
    left_in("status", text, sizeof(text));
    assert_int_equal(signals_in(text, "SigBlk:"), 0);
    assert_int_equal(signals_in(text, "SigIgn:"), 0);
}

static void passt_talking_nonsense_is_no_backend(void **state)
{
    uint8_t packet[100];
    struct iovec iov = {packet, sizeof(packet)};
    play_passt("printf '\\0\\0\\0\\0' >&3; echo $$; exec sleep 1000");
    struct net *net = open_passt(NULL, 0);
    struct pollfd wait = {.fd = net->fd, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, TIMEOUT_MS), 1);
    assert_int_equal(net->ops->receive(net, &iov, 1), -ENODEV);
    net_close(net);
}

/* ---- ports ---- */

/* A port that is taken on `address`, by a server that listens, until `*sock` is closed. */
static uint16_t take_port(int *sock, int family, int type)
{
    struct sockaddr_in6 address = {.sin6_family = (sa_family_t)family};
    socklen_t bytes = family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    const int yes = 1;
    *sock = socket(family, type | SOCK_CLOEXEC, 0);
    assert_true(*sock >= 0);
    if (family == AF_INET6)
        setsockopt(*sock, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
    assert_int_equal(bind(*sock, (struct sockaddr *)&address, bytes), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(*sock, 1), 0);
    assert_int_equal(getsockname(*sock, (struct sockaddr *)&address, &bytes), 0);
    return ntohs(address.sin6_port); /* where sin_port is too */
}

static void a_busy_port_is_named(void **state)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct nido_publish publish = {.guest_port = 80};
    char words[64];
    for (unsigned i = 0; i < ARRAY_SIZE(families); i++) {
        own_fd int tcp = -1;
        own_fd int udp = -1;
        publish.udp = false;
        publish.host_port = take_port(&tcp, families[i], SOCK_STREAM);
        snprintf(words, sizeof(words), "publish=%u:80: TCP port %u", publish.host_port,
                 publish.host_port);
        expect_refused(&publish, 1, words);
        publish.udp = true;
        publish.host_port = take_port(&udp, families[i], SOCK_DGRAM);
        snprintf(words, sizeof(words), "publish=%u:80/udp: UDP port %u", publish.host_port,
                 publish.host_port);
        expect_refused(&publish, 1, words);
    }
}

static void a_port_of_an_address_that_is_not_ours_is_named(void **state)
{
    const struct nido_publish v4 = {.address = "192.0.2.77", .host_port = 18080, .guest_port = 80};
    const struct nido_publish v6 = {.address = "2001:db8::7", .host_port = 18080, .guest_port = 80};
    if (net_publish_check(&v4, NULL) == 0) {
        print_message("skipped: this network has no addresses, and takes any\n");
        skip();
    }
    expect_refused(&v4, 1, "publish=192.0.2.77:18080:80: this host has no address 192.0.2.77");
    expect_refused(&v6, 1, "publish=[2001:db8::7]:18080:80: this host has no address");
}

static void a_port_that_passt_has_is_busy_until_it_is_closed(void **state)
{
    NEEDS_PASST();
    int sock;
    struct nido_publish publish = {.address = "127.0.0.1", .guest_port = 80};
    publish.host_port = take_port(&sock, AF_INET, SOCK_STREAM);
    close(sock);
    struct net *net = open_passt(&publish, 1);
    expect_refused(&publish, 1, "is in use");
    net_close(net);
    net_close(open_passt(&publish, 1));
}

/* ---- the real one ---- */

#define DHCP_AT    (NET_HEADER_BYTES + 42u) /* behind Ethernet, IPv4 and UDP */
#define DHCP_BYTES 300u

static uint16_t ip_checksum(const uint8_t *header)
{
    uint32_t sum = 0;
    for (unsigned i = 0; i < 20; i += 2)
        sum += (uint32_t)(header[i] << 8 | header[i + 1]);
    return (uint16_t) ~((sum & 0xffff) + (sum >> 16));
}

/* A DHCPDISCOVER (RFC 2131, 3.1) with virtio's header in front. Returns the length of all. */
static size_t make_discover(uint8_t *packet)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
    static const uint8_t ip[] = {
        0x45, 0, (28 + DHCP_BYTES) >> 8, (28 + DHCP_BYTES) & 0xff, 0, 0, 0, 0, 64, 17};
    static const uint8_t udp[] = {0, 68, 0, 67, (8 + DHCP_BYTES) >> 8, (8 + DHCP_BYTES) & 0xff};
    static const uint8_t dhcp[] = {1, 1, 6, 0, 'n', 'i', 'd', 'o'};
    static const uint8_t options[] = {0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255};
    uint8_t *frame = packet + NET_HEADER_BYTES;
    memset(packet, 0, DHCP_AT + DHCP_BYTES);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    frame[12] = 8;
    memcpy(frame + 14, ip, sizeof(ip));
    memset(frame + 30, 0xff, 4);
    uint16_t checksum = htons(ip_checksum(frame + 14));
    memcpy(frame + 24, &checksum, sizeof(checksum));
    memcpy(frame + 34, udp, sizeof(udp));
    memcpy(packet + DHCP_AT, dhcp, sizeof(dhcp));
    memcpy(packet + DHCP_AT + 28, mac, 6);
    memcpy(packet + DHCP_AT + 236, options, sizeof(options));
    return DHCP_AT + DHCP_BYTES;
}

/* The value of option `wanted`, one byte (RFC 2132, 2); 0: it has none. */
static uint8_t dhcp_option(const uint8_t *at, const uint8_t *end, uint8_t wanted)
{
    while (at + 2 < end && *at != 255) {
        if (*at == wanted)
            return at[2];
        at += *at ? 2 + at[1] : 1;
    }
    return 0;
}

static bool is_offer(const uint8_t *packet, ssize_t bytes)
{
    static const uint8_t header[NET_HEADER_BYTES], no_address[4];
    const uint8_t *dhcp = packet + DHCP_AT;
    return bytes > (ssize_t)DHCP_AT + 240 && memcmp(packet, header, sizeof(header)) == 0 &&
           dhcp[0] == 2 && memcmp(dhcp + 4, "nido", 4) == 0 &&
           memcmp(dhcp + 16, no_address, 4) != 0 &&
           dhcp_option(dhcp + 240, packet + bytes, 53) == 2;
}

static void expect_offer(struct net *net)
{
    uint8_t packet[2048];
    struct iovec iov = {packet, make_discover(packet)};
    assert_int_equal(net->ops->send(net, &iov, 1), iov.iov_len);
    iov.iov_len = sizeof(packet);
    ssize_t got;
    do { /* it also sends router advertisements, as it likes */
        struct pollfd wait = {.fd = net->fd, .events = POLLIN};
        assert_int_equal(poll(&wait, 1, TIMEOUT_MS), 1);
        got = net->ops->receive(net, &iov, 1);
        assert_true(got >= 0);
    } while (!is_offer(packet, got));
}

static void passt_offers_an_address(void **state)
{
    NEEDS_PASST();
    struct net *net = open_passt(NULL, 0);
    assert_int_equal(net->mtu, 65520);
    assert_false(net->can.csum);
    assert_int_equal(net->ops->set_offload(net, &(struct net_offload){0}), 0);
    expect_offer(net);
    net_close(net);
}

static void passt_ends_with_the_backend(void **state)
{
    NEEDS_PASST();
    struct net *net = open_passt(NULL, 0);
    pid_t pid = pid_of(net);
    assert_int_equal(kill(pid, 0), 0);
    net_close(net);
    assert_int_equal(kill(pid, 0), -1);
}

static void two_do_not_keep_each_other_alive(void **state)
{
    NEEDS_PASST();
    struct net *first = open_passt(NULL, 0), *second = open_passt(NULL, 0);
    net_close(first);
    expect_offer(second);
    net_close(second);
}

/* In a process of its own: tells the pid of its passt and waits to be killed. */
static void be_killed(int to)
{
    struct net *net = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    loop_create(&loop, "child", NULL);
    int pid = net_open_passt(&net, &plain, loop, NULL) ? 0 : pid_of(net);
    if (write(to, &pid, sizeof(pid)) != sizeof(pid))
        _exit(1);
    for (;;)
        pause();
}

static void passt_ends_when_its_parent_is_killed(void **state)
{
    NEEDS_PASST();
    int ends[2], passt = 0, status;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* so that we are told of its end */
    pid_t parent = fork();
    if (parent == 0)
        be_killed(ends[1]);
    assert_int_equal(read(ends[0], &passt, sizeof(passt)), sizeof(passt));
    assert_true(passt > 0);
    assert_int_equal(kill(parent, SIGKILL), 0);
    assert_int_equal(waitpid(parent, &status, 0), parent);
    assert_int_equal(waitpid(passt, &status, 0), passt);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    close(ends[0]);
    close(ends[1]);
}

/* ---- behind a network card ---- */

static void wait_until_nobody(pid_t pid)
{
    const uint64_t give_up_ns = clock_now_ns() + 10000000000ull;
    while (kill(pid, 0) == 0 && clock_now_ns() < give_up_ns)
        usleep(1000);
    assert_int_equal(kill(pid, 0), -1);
}

static void the_guest_learns_that_passt_has_died(void **state)
{
    NEEDS_PASST();
    struct net *net = NULL;
    struct virtio_device *device;
    struct nido_error err;
    guest_init(&guest);
    assert_int_equal(net_open_passt(&net, &plain, guest.loop, &err), 0);
    assert_int_equal(
        virtio_net_create(&device, net, &net_options, guest.mem, guest.loop, &guest.irq, &err), 0);
    pid_t pid = pid_of(net);
    guest_attach(&guest, device);
    uint64_t features = guest_device_features(&guest);
    assert_true(features & F(VIRTIO_NET_F_MTU));
    assert_false(features & (F(VIRTIO_NET_F_CSUM) | F(VIRTIO_NET_F_GUEST_CSUM)));
    guest_bring_up(&guest, MERGEABLE | F(VIRTIO_NET_F_STATUS), 2, 64);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(guest_wait_interrupt(&guest, 10000), 2 /* the configuration has changed */);
    expect_link_down();
    wait_until_nobody(pid); /* reaped, not just dead */
    /* And the card goes on, for a guest that does not look. */
    post_tx(100, 1);
    guest_kick(&guest, TX);
    guest_wait_used(&guest, TX);
    assert_false(needs_reset());
    guest_finish(&guest);
}

/* ---- */

static const char *look_for_passt(void)
{
    struct net *net = NULL;
    static struct nido_error err;
    if (net_open_passt(&net, &plain, loop, &err))
        return err.text;
    net_close(net);
    return NULL;
}

static int group_set_up(void **state)
{
    snprintf(place, sizeof(place), "/tmp/nido-test-passt.XXXXXX");
    real_path = strdup(getenv("PATH") ? getenv("PATH") : "/bin:/usr/bin");
    if (!mkdtemp(place) || !real_path || set_up(state))
        return -1;
    why_no_passt = look_for_passt();
    loop_destroy(loop);
    return 0;
}

static int group_tear_down(void **state)
{
    char path[PATH_MAX];
    in_place(path, "passt");
    unlink(path);
    free(real_path);
    return rmdir(place);
}

#define PASST_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PASST_TEST(passt_that_is_not_there_is_asked_for),
        PASST_TEST(passt_that_does_not_start_is_quoted),
        PASST_TEST(passt_without_a_network_says_what_it_needs),
        PASST_TEST(passt_is_told_the_ports),
        PASST_TEST(a_resolver_of_the_hosts_own_answers_the_guest),
        PASST_TEST(passt_hides_the_hosts_own_services_unless_told),
        PASST_TEST(passt_is_told_addresses_without_brackets),
        PASST_TEST(passt_inherits_nothing_of_ours),
        PASST_TEST(passt_talking_nonsense_is_no_backend),
        PASST_TEST(a_busy_port_is_named),
        PASST_TEST(a_port_of_an_address_that_is_not_ours_is_named),
        PASST_TEST(a_port_that_passt_has_is_busy_until_it_is_closed),
        PASST_TEST(passt_offers_an_address),
        PASST_TEST(passt_ends_with_the_backend),
        PASST_TEST(two_do_not_keep_each_other_alive),
        PASST_TEST(passt_ends_when_its_parent_is_killed),
        PASST_TEST(the_guest_learns_that_passt_has_died),
    };
    log_set_level(LOG_ERROR); /* the warnings are expected */
    return cmocka_run_group_tests_name("net_passt", tests, group_set_up, group_tear_down);
}
