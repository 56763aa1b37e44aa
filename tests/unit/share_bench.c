/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/share_bench.h"

#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

char share_directory[80];
struct share *share;

static char top[64]; /* holds all of it */

const char *share_path(const char *name)
{
    static char paths[4][PATH_MAX];
    static unsigned next;
    char *to = paths[next++ % 4];
    snprintf(to, PATH_MAX, "%s/%s", top, name);
    return to;
}

void share_host_file(const char *name, const char *text)
{
    FILE *file = fopen(share_path(name), "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

int share_open_it(const char *name, bool read_only, struct nido_error *err)
{
    const struct share_config config = {.path = share_path(name),
                                        .read_only = read_only,
                                        .descriptors_max = 10000,
                                        .nodes_max = 10000};
    return share_open(&share, &config, err);
}

void share_open_with(unsigned descriptors_max, unsigned nodes_max)
{
    const struct share_config config = {
        .path = share_directory, .descriptors_max = descriptors_max, .nodes_max = nodes_max};
    share_close(share);
    assert_int_equal(share_open(&share, &config, NULL), 0);
}

int share_set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(top, sizeof(top), "%s/nido-share.XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(top));
    assert_int_equal(chmod(top, 0755), 0);
    snprintf(share_directory, sizeof(share_directory), "%s/shared", top);
    assert_int_equal(mkdir(share_directory, 0755), 0);
    share = NULL;
    return share_open_it("shared", false, NULL);
}

static int remove_it(const char *at, const struct stat *stat, int type, struct FTW *ftw)
{
    return remove(at);
}

int share_tear_down(void **state)
{
    share_close(share);
    nftw(top, remove_it, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}

uint64_t share_find_node(uint64_t directory, const char *name)
{
    struct share_entry entry;
    assert_int_equal(share_lookup(share, directory, name, &entry), 0);
    return entry.node;
}

const struct share_owner nobody = {0, 0};

void share_may_open_all_it_can(void)
{
    struct rlimit limit = {0};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}
