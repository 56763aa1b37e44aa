/* SPDX-License-Identifier: Apache-2.0 */
/* What nido-unpack can still do once it is sealed: called as code of a stranger's would, in a process of its own. */
#include "unpack/jail.h"

#include "cmocka_nido.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NO_SEAL 77 /* a sanitizer's build, or a kernel without filters */

static char place[] = "/tmp/nido-test-jail.XXXXXX";

static int set_up(void **state)
{
    if (!mkdtemp(place) || chdir(place) < 0)
        return -1;
    int fd = open("kept", O_WRONLY | O_CREAT, 0600);
    return fd < 0 || write(fd, "kept", 4) != 4 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    unlink("kept");
    return rmdir(place);
}

static bool is_refused(long result)
{
    return result < 0 && errno == ENOSYS;
}

static bool opens(int flags)
{
    return !is_refused(syscall(SYS_openat, AT_FDCWD, "kept", flags, 0600));
}

/* The number of what does not hold; 0: all does. */
static int try_all(enum jail_files files)
{
    const bool lays_out = files == JAIL_LAYS_OUT;
    static const int changing[] = {O_WRONLY | O_APPEND, O_RDWR,   O_ACCMODE,
                                   O_RDONLY | O_CREAT,  O_TRUNC,  O_WRONLY | O_CREAT,
                                   O_TMPFILE | O_RDWR,  O_TMPFILE};
    if (jail_seal(files, NULL) < 0)
        return 1;
    if (!is_refused(syscall(SYS_getppid)))
        return NO_SEAL;
    if (!opens(O_RDONLY | O_CLOEXEC | O_NONBLOCK) || !opens(O_RDONLY | O_DIRECTORY))
        return 2;
    for (int i = 0; i < (int)(sizeof(changing) / sizeof(changing[0])); i++)
        if (opens(changing[i]) != lays_out)
            return 10 + i;
    if (is_refused(syscall(SYS_mkdirat, AT_FDCWD, "made", 0700)) == lays_out)
        return 3;
    if (is_refused(syscall(SYS_unlinkat, AT_FDCWD, "made", AT_REMOVEDIR)) == lays_out)
        return 4;
    char byte = 'x';
    if (!is_refused(ioctl(0, TIOCSTI, &byte)))
        return 5;
    char settings[256];
    if (is_refused(ioctl(0, TCGETS, settings)))
        return 6;
    if (!is_refused(syscall(SYS_renameat2, AT_FDCWD, "kept", AT_FDCWD, "moved", 0)) ||
        !is_refused(syscall(SYS_kill, 1, 0)) || !is_refused(syscall(SYS_socket, 1, 1, 0)))
        return 7;
    return 0;
}

static void check(enum jail_files files)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(jail_limit(NULL) < 0 ? 8 : try_all(files));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NO_SEAL)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void what_reads_archives_changes_no_file(void **state)
{
    struct stat st;
    check(JAIL_READS);
    assert_int_equal(stat("kept", &st), 0);
    assert_int_equal(st.st_size, 4);
}

static void what_lays_a_package_out_speaks_to_no_terminal(void **state)
{
    check(JAIL_LAYS_OUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_reads_archives_changes_no_file),
        cmocka_unit_test(what_lays_a_package_out_speaks_to_no_terminal),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
