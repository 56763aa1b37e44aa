/* SPDX-License-Identifier: Apache-2.0 */
/* How a TAP is opened or taken over, and what is refused with which words. */
#include "base/log.h"
#include "base/own.h"
#include "tests/unit/tap_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void expect_refused(const char *name, int code, const char *text)
{
    struct net *net = NULL;
    struct nido_error err;
    assert_int_equal(net_open_tap(&net, name, &err), -code);
    assert_null(net);
    if (!strstr(err.text, text))
        fail_msg("'%s' lacks '%s'", err.text, text);
}

static void expect_fd_refused(int fd, const char *text)
{
    struct net *net = NULL;
    struct nido_error err;
    assert_true(net_open_tap_fd(&net, fd, &err) < 0);
    assert_null(net);
    if (!strstr(err.text, text))
        fail_msg("'%s' lacks '%s'", err.text, text);
}

/* ---- opening ---- */

static void tap_refuses_names_that_no_interface_can_have(void **state)
{
    expect_refused("", EINVAL, "1 to 15 characters");
    expect_refused("sixteen-letters-", EINVAL, "1 to 15 characters");
    expect_refused("tap 0", EINVAL, "no spaces");
    expect_refused("../tap0", EINVAL, "none of /");
    expect_refused("tap%d", EINVAL, "none of /");
    expect_refused("tap0:1", EINVAL, "none of /");
    expect_refused("tap\x1b[2J", EINVAL, "no spaces");
    expect_refused("..", EINVAL, "called that");
}

static void tap_opens_by_name(void **state)
{
    NEEDS_TAP();
    struct net *net = open_tap("tap0");
    assert_string_equal(net->name, "tap0");
    assert_int_equal(net->mtu, 1500);
    assert_true(net->can.csum && net->can.tso4 && net->can.tso6 && net->can.ecn);
    assert_true(fcntl(net->fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(net->fd, F_GETFD) & FD_CLOEXEC);
    net_close(net);
    assert_int_equal(if_nametoindex("tap0"), 0);
}

static void tap_opens_one_that_is_there_and_tells_its_mtu(void **state)
{
    NEEDS_TAP();
    make_persistent("tap0", IFF_TAP | IFF_NO_PI);
    struct ifreq ifr = about("tap0");
    ifr.ifr_mtu = 9000;
    interface_ioctl(SIOCSIFMTU, &ifr);
    struct net *net = open_tap("tap0");
    assert_int_equal(net->mtu, 9000);
    net_close(net);
    assert_int_not_equal(if_nametoindex("tap0"), 0);
    delete_interface("tap0");
}

static void tap_in_use_is_refused(void **state)
{
    NEEDS_TAP();
    struct net *net = open_tap("tap0");
    expect_refused("tap0", EBUSY, "tap0 is in use by another process");
    net_close(net);
}

static void tap_refuses_other_kinds_of_interface(void **state)
{
    NEEDS_TAP();
    make_persistent("tun0", IFF_TUN | IFF_NO_PI);
    make_persistent("many0", TAP_FLAGS | IFF_MULTI_QUEUE);
    expect_refused("tun0", EINVAL, "tun0 is a TUN interface");
    expect_refused("many0", EINVAL, "many0 was made with multi_queue");
    expect_refused("lo", EINVAL, "lo is not a TAP interface");
    delete_interface("tun0");
    delete_interface("many0");
}

static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    if (syscall(SYS_capset, &header, none))
        _exit(2);
}

static void expect_refused_without_privilege(const char *name, const char *text)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct net *net;
        struct nido_error err = {0};
        drop_capabilities();
        int rc = net_open_tap(&net, name, &err);
        _exit(rc == -EPERM && strstr(err.text, text) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void tap_tells_the_unprivileged_what_root_must_do(void **state)
{
    NEEDS_TAP();
    expect_refused_without_privilege("tap0", "`ip tuntap add dev tap0 mode tap user $USER`");

    own_fd int fd = open_raw("tap0", TAP_FLAGS);
    assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
    bool owned = ioctl(fd, TUNSETOWNER, 12345) == 0;
    close(own_take_fd(&fd));
    if (owned)
        expect_refused_without_privilege("tap0", "tap0 belongs to another user");
    else
        print_message("not tried: an interface of another user, which needs real root\n");
    delete_interface("tap0");
}

/* ---- inherited descriptors ---- */

static void tap_fd_is_taken_over(void **state)
{
    NEEDS_TAP();
    uint8_t packet[2048];
    uint16_t port;
    struct net *net = NULL;
    struct nido_error err;
    int fd = open_raw("tap0", TAP_FLAGS);
    assert_int_equal(net_open_tap_fd(&net, fd, &err), 0);
    char name[32];
    snprintf(name, sizeof(name), "fd %d (tap0)", fd);
    assert_string_equal(net->name, name);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);

    bring_up_interface("tap0");
    own_fd int sock = udp_socket(&port);
    size_t bytes = make_udp(packet, port, "through a descriptor");
    assert_int_equal(send_packet(net, packet, bytes), bytes);
    expect_text(sock, "through a descriptor");
    net_close(net);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void tap_fd_of_another_kind_is_refused_by_name(void **state)
{
    own_fd int null = open("/dev/null", O_RDWR);
    own_fd int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    expect_fd_refused(null, "/dev/null, not a TAP");
    expect_fd_refused(sock, "socket:[");
    expect_fd_refused(-1, "fd -1 is not open");
    expect_fd_refused(12345, "fd 12345 is not open");
}

static void tap_fd_must_be_set_up_as_we_read_it(void **state)
{
    NEEDS_TAP();
    own_fd int idle = open("/dev/net/tun", O_RDWR);
    own_fd int tun = open_raw("tun0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
    own_fd int bare = open_raw("tap1", IFF_TAP | IFF_NO_PI);
    expect_fd_refused(idle, "without an interface");
    expect_fd_refused(tun, "TUN interface tun0");
    expect_fd_refused(bare, "lacks IFF_VNET_HDR");
    /* They are still ours. */
    assert_int_equal(fcntl(bare, F_GETFL) & O_NONBLOCK, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tap_refuses_names_that_no_interface_can_have),
        cmocka_unit_test(tap_opens_by_name),
        cmocka_unit_test(tap_opens_one_that_is_there_and_tells_its_mtu),
        cmocka_unit_test(tap_in_use_is_refused),
        cmocka_unit_test(tap_refuses_other_kinds_of_interface),
        cmocka_unit_test(tap_tells_the_unprivileged_what_root_must_do),
        cmocka_unit_test(tap_fd_is_taken_over),
        cmocka_unit_test(tap_fd_of_another_kind_is_refused_by_name),
        cmocka_unit_test(tap_fd_must_be_set_up_as_we_read_it),
    };
    tap_bench_enter();
    log_set_level(LOG_ERROR); /* the warnings are expected */
    return cmocka_run_group_tests_name("net_tap", tests, NULL, NULL);
}
