/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of nido cp: trees that come out as they went in, and streams that try to get out of their place. */
#include "firmware/guest/copy.h"

#include "cmocka_nido.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define STREAM_BYTES (4u << 20)

static struct bench {
    char directory[64];
    uint8_t stream[STREAM_BYTES];
    size_t length, at;
    char complaint[TAR_WHY_BYTES], why[TAR_WHY_BYTES];
    struct packer packer;
    struct tar_reader reader;
} bench;

static int set_up(void **state)
{
    memset(&bench, 0, sizeof(bench));
    strcpy(bench.directory, "/tmp/nido-test-copy.XXXXXX");
    umask(022);
    return mkdtemp(bench.directory) && chdir(bench.directory) == 0 ? 0 : -1;
}

static void shell(const char *command)
{
    if (system(command) != 0)
        fail_msg("%s", command);
}

static int tear_down(void **state)
{
    char command[256];
    snprintf(command, sizeof(command), "chmod -R u+rwx %s; rm -rf %s", bench.directory,
             bench.directory);
    shell(command);
    return chdir("/");
}

static int write_stream(void *self, const void *bytes, size_t count)
{
    if (count > sizeof(bench.stream) - bench.length)
        return -ENOSPC;
    memcpy(bench.stream + bench.length, bytes, count);
    bench.length += count;
    return 0;
}

static void complain(void *self, const char *text)
{
    snprintf(bench.complaint, sizeof(bench.complaint), "%s", text);
}

/* In pieces that end where they like. */
static ssize_t read_stream(void *self, void *bytes, size_t count)
{
    size_t left = bench.length - bench.at, n = count < left ? count : left;
    n = n > 700 ? 700 : n;
    memcpy(bytes, bench.stream + bench.at, n);
    bench.at += n;
    return (ssize_t)n;
}

static unsigned pack_up(const char *path)
{
    char *const paths[] = {(char *)(uintptr_t)path, NULL};
    bench.packer = (struct packer){.write = write_stream, .complain = complain};
    bench.length = bench.at = 0;
    assert_int_equal(pack_trees(&bench.packer, paths), 0);
    return bench.packer.complaints;
}

/* As nido does on the host, where `name` is all that it has asked for; NULL: anything comes. */
static int unpack_to(const char *to, const char *name, mode_t mask)
{
    char *const names[] = {(char *)(uintptr_t)name, NULL};
    const struct unpack_rules rules = {.mode_mask = mask, .names = name ? names : NULL};
    struct unpack_place place;
    bench.reader = (struct tar_reader){.read = read_stream};
    bench.at = 0;
    if (unpack_open(&place, to, false, bench.why) < 0)
        return -1;
    int ret = unpack_trees(&bench.reader, &place, &rules, bench.why);
    close(place.directory);
    return ret;
}

static void expect_refused(const char *name, const char *words)
{
    assert_int_equal(unpack_to("to", name, 01777), -1);
    if (!strstr(bench.why, words))
        fail_msg("'%s' does not say '%s'", bench.why, words);
}

/* ---- streams by hand ---- */

static void begin_stream(void)
{
    bench.length = bench.at = 0;
}

static void add(enum tar_kind kind, const char *path, const char *link_or_bytes, mode_t mode)
{
    struct tar_entry entry = {.kind = kind, .mode = mode};
    uint8_t header[TAR_HEADER_BYTES];
    snprintf(entry.path, sizeof(entry.path), "%s", path);
    if (kind == TAR_SYMLINK)
        snprintf(entry.link, sizeof(entry.link), "%s", link_or_bytes);
    else if (kind == TAR_FILE)
        entry.size = strlen(link_or_bytes);
    write_stream(NULL, header, tar_put(&entry, header));
    if (kind == TAR_FILE) {
        uint8_t block[TAR_BLOCK_BYTES] = {0};
        memcpy(block, link_or_bytes, entry.size);
        write_stream(NULL, block, entry.size ? sizeof(block) : 0);
    }
}

/* The last header, with another type. */
static void turn_into(char type, const char *link)
{
    uint8_t *header = bench.stream + bench.length - TAR_BLOCK_BYTES;
    unsigned sum = 0;
    header[156] = (uint8_t)type;
    snprintf((char *)header + 157, 100, "%s", link);
    memset(header + 148, ' ', 8);
    for (unsigned i = 0; i < TAR_BLOCK_BYTES; i++)
        sum += header[i];
    sprintf((char *)header + 148, "%06o", sum);
}

static void end_stream(void)
{
    static const uint8_t zeros[TAR_END_BYTES];
    write_stream(NULL, zeros, sizeof(zeros));
}

/* ---- trees ---- */

static void make_tree(void)
{
    shell("mkdir -p 'from/sub dir/deep' from/empty from/sealed && cd from &&"
          "echo text >file && echo dash >./-dash && echo nl >\"$(printf 'a\\nb')\" &&"
          "head -c 300000 /dev/urandom >'sub dir/deep/big' && : >nothing &&"
          "ln -s ../nowhere 'sub dir/link' && ln -s \"$(printf %0200d 7)\" long-link &&"
          "touch \"$(printf %0150d 7)\" && echo s >sealed/inside &&"
          "chmod 0640 file && chmod 4755 nothing && chmod 0555 sealed && chmod 1777 empty &&"
          "touch -d '2001-02-03 04:05:06.789' file empty && touch -h -d '1969-12-31 23:59:58.5 "
          "UTC' long-link");
}

#define LISTING                                                                                    \
    "find . ! -name . -printf '%p %y %m %T@ %l\\n' | sort; find . -type f -exec md5sum {} + | "    \
    "sort"

static void a_tree_comes_out_as_it_went_in(void **state)
{
    make_tree();
    assert_int_equal(pack_up("from"), 0);
    assert_int_equal(unpack_to("to", "from", 07777), 0);
    shell("cd from && { " LISTING "; } >../a; cd ../to && { " LISTING
          "; } >../b; diff ../a ../b >&2");
    /* Once more, over what is there; and into a directory, under its own name. */
    shell("echo other >to/file; rm to/nothing; ln -s file to/nothing; mkdir in");
    assert_int_equal(unpack_to("in", "from", 07777), 0);
    shell("cd in/from && { " LISTING "; } >../../b; diff ../../a ../../b >&2");
}

static void holes_stay_holes(void **state)
{
    shell("mkdir from to && cd from && echo a >begins && truncate -s 1000003 begins &&"
          "truncate -s 1000000 ends && echo b >>ends && truncate -s 1000000 hole");
    pack_up("from/.");
    assert_int_equal(unpack_to("to", ".", 01777), 0);
    shell("for file in begins ends hole; do cmp from/$file to/$file || exit 1; done;"
          "test \"$(du -k to | cut -f1)\" -lt 100");
}

static void a_file_that_hides_its_length_is_named(void **state)
{
    assert_int_equal(pack_up("/proc/self/status"), 1);
    assert_non_null(strstr(bench.complaint, "/proc/self/status: it does not say how long it is"));
    shell("touch empty");
    assert_int_equal(pack_up("empty"), 0);
}

static void what_is_inside_travels_without_a_name(void **state)
{
    make_tree();
    shell("mkdir to");
    pack_up("from/.");
    assert_int_equal(unpack_to("to", ".", 07777), 0);
    assert_int_equal(unpack_to("new", ".", 07777), 0);
    shell("test -f to/file && test -d 'new/sub dir/deep' && test ! -e to/from");
    pack_up("from/file");
    assert_int_equal(unpack_to("one", "file", 07777), 0);
    shell("cmp one from/file");
}

static void upper_mode_bits_come_when_asked_for_alone(void **state)
{
    make_tree();
    pack_up("from");
    assert_int_equal(unpack_to("to", "from", 01777), 0);
    shell("test \"$(stat -c %a to/nothing to/empty)\" = \"$(printf '755\\n1777')\"");
}

static void what_cannot_be_copied_is_named_and_the_rest_comes(void **state)
{
    shell("mkdir from && mkfifo from/pipe && echo x >from/file");
    assert_int_equal(pack_up("from"), 1);
    assert_non_null(strstr(bench.complaint, "from/pipe: neither a file"));
    assert_int_equal(unpack_to("to", "from", 01777), 0);
    shell("test -f to/file && test ! -e to/pipe");
    assert_int_equal(pack_up("from/none"), 1);
    assert_string_equal(bench.complaint, "from/none: No such file or directory");
}

/* On half the stack that most programs get, or as deep as there are descriptors. */
static void deep_trees_need_no_deep_stack(void **state)
{
    char part[8] = "from";
    unsigned depth = 0;
    struct rlimit files, stack, small;
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_STACK, &stack);
    small = (struct rlimit){4u << 20, stack.rlim_max};
    files.rlim_cur = files.rlim_max < 1100 ? files.rlim_max : 1100;
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_STACK, &small);
    for (; depth < 1000 && depth + 40 < files.rlim_cur; depth++, strcpy(part, "d"))
        assert_true(mkdir(part, 0755) == 0 && chdir(part) == 0);
    assert_int_equal(chdir(bench.directory), 0);
    assert_int_equal(pack_up("from"), 0);
    setrlimit(RLIMIT_STACK, &stack);
    assert_true(bench.length > depth * TAR_BLOCK_BYTES);
}

static void load_stream(const char *command)
{
    FILE *tar = popen(command, "r");
    assert_non_null(tar);
    bench.length = fread(bench.stream, 1, sizeof(bench.stream), tar);
    assert_int_equal(pclose(tar), 0);
}

static void archives_of_gnu_tar_are_read(void **state)
{
    static const char *const commands[] = {"tar --format=gnu -cf - -C from .",
                                           "tar --format=pax -cf - -C from .",
                                           "tar --format=v7 -cf - -C from file 'sub dir/deep'"};
    make_tree();
    shell("ln from/file from/hard; truncate -s 0 from/-dash");
    for (unsigned i = 0; i < 3; i++) {
        shell("test ! -e to || chmod -R u+w to; rm -rf to; mkdir to");
        load_stream(commands[i]);
        assert_int_equal(unpack_to("to", NULL, 07777), 0);
        shell("cmp from/file to/file && cmp 'from/sub dir/deep/big' 'to/sub dir/deep/big'");
        if (i < 2)
            shell("test \"$(cd from; find | sort)\" = \"$(cd to; find | sort)\" && test to/hard "
                  "-ef to/file &&"
                  "test \"$(readlink to/long-link)\" = \"$(readlink from/long-link)\"");
    }
}

static void gnu_tar_reads_what_is_written(void **state)
{
    make_tree();
    pack_up("from");
    FILE *tar = popen("mkdir to && tar -xpf - -C to 2>err", "w");
    assert_int_equal(fwrite(bench.stream, 1, bench.length, tar), bench.length);
    assert_int_equal(pclose(tar), 0);
    shell("cd from && { " LISTING "; } >../a; cd ../to/from && { " LISTING
          "; } >../../b; diff ../../a ../../b >&2");
}

/* ---- a guest that wants out ---- */

static void nothing_is_written_outside(void **state)
{
    static const char *const ways[] = {"x/../../out", "../out", "x/..", "x/a/../../../out"};
    shell("mkdir to outside");
    for (unsigned i = 0; i < 4; i++) {
        begin_stream();
        add(TAR_FILE, ways[i], "evil", 0644);
        end_stream();
        expect_refused(i == 1 ? "." : "x", "..");
        shell("test ! -e out");
    }
    begin_stream();
    add(TAR_DIRECTORY, "x", "", 0755);
    add(TAR_SYMLINK, "x/way", "../../outside", 0777);
    add(TAR_FILE, "x/way/file", "evil", 0644);
    end_stream();
    expect_refused("x", "x/way/file: on its way is a symbolic link");
    shell("test -z \"$(ls outside)\" && test -L to/x/way");
    /* A directory in its place, neither; and a file replaces the link. */
    begin_stream();
    add(TAR_DIRECTORY, "x/way", "", 0777);
    end_stream();
    expect_refused("x", "something else is in its place");
    shell("echo good >outside/file; ln -sfn ../../outside/file to/x/way");
    begin_stream();
    add(TAR_FILE, "x/way", "new", 0644);
    end_stream();
    assert_int_equal(unpack_to("to", "x", 01777), 0);
    shell("grep -q good outside/file && test \"$(cat to/x/way)\" = new");
}

static void absolute_names_stay_inside(void **state)
{
    shell("mkdir to");
    begin_stream();
    add(TAR_FILE, "/x/file", "text", 0644);
    end_stream();
    assert_int_equal(unpack_to("to", "x", 01777), 0);
    shell("test -f to/x/file");
}

static void what_nobody_asked_for_is_refused(void **state)
{
    static const char *const names[] = {".bashrc", "./.bashrc", "xx/y", "//.bashrc"};
    shell("mkdir to");
    for (unsigned i = 0; i < 4; i++) {
        begin_stream();
        add(TAR_FILE, names[i], "evil", 0644);
        end_stream();
        expect_refused("x", "nobody asked for that");
    }
    shell("test -z \"$(ls -A to)\"");
}

static void a_link_in_place_of_the_whole_is_refused(void **state)
{
    static const char *const names[] = {".", "./.", "x", "/x", "x/."};
    static const enum tar_kind kinds[] = {TAR_SYMLINK, TAR_FILE};
    for (unsigned i = 0; i < 10; i++) {
        begin_stream();
        add(kinds[i % 2], names[i / 2], "/tmp", 0644);
        end_stream();
        expect_refused(".", "nobody asked for that");
        shell("test ! -e to && test ! -L to");
    }
}

static void links_devices_and_strange_kinds_are_refused(void **state)
{
    static const char types[] = "1346SVZ";
    shell("mkdir to; echo secret >to/key; chmod 600 to/key");
    for (const char *type = types; *type; type++) {
        begin_stream();
        add(TAR_FILE, "x", "", 0666);
        turn_into(*type, "key");
        end_stream();
        assert_int_equal(unpack_to("to", "x", 01777), -1);
        assert_non_null(strstr(bench.why, *type == '1'   ? "hard link is refused"
                                          : *type <= '6' ? "device, or a FIFO"
                                                         : "kind that nido does not know"));
    }
    shell("test \"$(ls to)\" = key && test \"$(stat -c %a to/key)\" = 600");
}

static void directories_that_are_there_keep_their_modes(void **state)
{
    shell("mkdir -p to/x && chmod 700 to to/x");
    begin_stream();
    add(TAR_DIRECTORY, "x", "", 0777);
    add(TAR_DIRECTORY, "x/new", "", 0711);
    end_stream();
    assert_int_equal(unpack_to("to", "x", 01777), 0);
    shell("test \"$(stat -c %a to to/x to/x/new | tr '\\n' ' ')\" = '700 700 711 '");
}

static void every_broken_stream_has_its_error(void **state)
{
    make_tree();
    shell("chmod 755 from/sealed; rm -rf from/'sub dir' from/sealed; mkdir to");
    pack_up("from");
    size_t whole = bench.length;
    /* Cut anywhere before its end marker: nothing that ends too soon is taken for all. */
    for (size_t cut = 0; cut <= whole - TAR_END_BYTES; cut += 100) {
        bench.length = cut;
        expect_refused("from", "ends too soon");
    }
    bench.length = whole;
    bench.stream[0] ^= 1;
    expect_refused("from", "no tar archive");
    begin_stream();
    add(TAR_FILE, "x", "text", 0644);
    /* 8 GiB less one, of which nothing comes. */
    memcpy(bench.stream + 124, "77777777777", 11);
    bench.length = TAR_BLOCK_BYTES;
    turn_into('0', "");
    end_stream();
    expect_refused("x", "ends too soon");
    /* A size that is negative, and one beyond everything, in base 256. */
    for (unsigned first = 0x80; first <= 0xff; first += 0x7f) {
        begin_stream();
        add(TAR_FILE, "x", "", 0644);
        memset(bench.stream + 124, 0xff, 12);
        bench.stream[124] = (uint8_t)first;
        turn_into('0', "");
        end_stream();
        expect_refused("x", "makes no sense");
    }
}

static void extended_headers_that_lie_are_refused(void **state)
{
    static const char *const records[] = {"99 path=x\n",
                                          "0 path=x\n",
                                          "9 path=x",
                                          "x path=x\n",
                                          "12 size=-1\n",
                                          "11 pathx=\n",
                                          "18 size=99999999999999999999\n",
                                          "5 p=\n\n",
                                          "17 mtime=1.x2345\n",
                                          "22 GNU.sparse.major=1\n"};
    shell("mkdir to");
    for (unsigned i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
        begin_stream();
        add(TAR_FILE, "pax", records[i], 0644);
        bench.length = TAR_BLOCK_BYTES;
        turn_into('x', "");
        bench.length += TAR_BLOCK_BYTES;
        add(TAR_FILE, "x", "", 0644);
        end_stream();
        if (unpack_to("to", "x", 01777) == 0)
            fail_msg("taken: %s", records[i]);
    }
    begin_stream();
    add(TAR_FILE, "pax", "", 0644);
    memcpy(bench.stream + 124, "77777777777", 11);
    turn_into('x', "");
    end_stream();
    expect_refused("x", "extended header");
}

static void a_file_that_finds_no_room_is_named(void **state)
{
    const struct rlimit small = {1000, RLIM_INFINITY};
    struct rlimit before;
    make_tree();
    pack_up("from");
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    setrlimit(RLIMIT_FSIZE, &small);
    int ret = unpack_to("to", "from", 01777);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(ret, -1);
    assert_string_equal(bench.why, "from/sub dir/deep/big: File too large");
}

static void messages_do_nothing_to_a_terminal(void **state)
{
    static const char *const names[][2] = {
        {"\033[2J\r\n\x7f", "?[2J???"},
        {"\x9b\x32J", "?2J"},           /* CSI in 8 bits */
        {"\xc2\x9b\x32J", "??2J"},      /* and in UTF-8 */
        {"\xc1\x9b \xc0\x9b", "?? ??"}, /* or longer than it has to be */
        {"\xe0\x82\x9b", "???"},        /* the same */
        {"\xe2\x80\xae"
         "txt",
         "???txt"}, /* from right to left */
        {"\xed\xa0\x80 \xf5\x80", "??? ??"},
        {"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"cut \xe2\x82", "cut ??"},
    };
    char expected[TAR_WHY_BYTES], name[TAR_PATH_BYTES] = "";
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        tar_explain(bench.why, names[i][0], "words");
        snprintf(expected, sizeof(expected), "%s: words", names[i][1]);
        assert_string_equal(bench.why, expected);
    }
    /* However long the name, the words are there, and the name once. */
    memset(name, 'x', 200);
    shell("mkdir to");
    begin_stream();
    add(TAR_FILE, name, "text", 0644);
    bench.length -= TAR_BLOCK_BYTES;
    assert_int_equal(unpack_to("to", NULL, 01777), -1);
    snprintf(expected, sizeof(expected), "%s: the stream ends too soon", name);
    assert_string_equal(bench.why, expected);
}

static void places_are_told_apart(void **state)
{
    struct unpack_place place;
    shell("mkdir dir; : >file; ln -s dir link");
    assert_int_equal(unpack_open(&place, "link", true, bench.why), 0);
    assert_string_equal(place.as, "");
    close(place.directory);
    assert_int_equal(unpack_open(&place, "dir/new", false, bench.why), 0);
    assert_string_equal(place.as, "new");
    close(place.directory);
    assert_int_equal(unpack_open(&place, "file", true, bench.why), -1);
    assert_string_equal(bench.why, "file: is no directory");
    assert_int_equal(unpack_open(&place, "new/", false, bench.why), -1);
    assert_string_equal(bench.why, "new/: No such file or directory");
    assert_int_equal(unpack_open(&place, "none/new", false, bench.why), -1);
    assert_int_equal(unpack_open(&place, "file/new", false, bench.why), -1);
}

static void names_travel_as_their_last_part(void **state)
{
    static const char *const names[][2] = {{"/", "."},      {".", "."},      {"a/..", "."},
                                           {"a/b/", "b"},   {"a/b///", "b"}, {"a", "a"},
                                           {"/etc/.", "."}, {"-x", "-x"},    {"./-", "-"}};
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char name[COPY_NAME_BYTES];
        copy_name(names[i][0], name);
        assert_string_equal(name, names[i][1]);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_tree_comes_out_as_it_went_in),
        TEST(holes_stay_holes),
        TEST(a_file_that_hides_its_length_is_named),
        TEST(what_is_inside_travels_without_a_name),
        TEST(upper_mode_bits_come_when_asked_for_alone),
        TEST(what_cannot_be_copied_is_named_and_the_rest_comes),
        TEST(deep_trees_need_no_deep_stack),
        TEST(archives_of_gnu_tar_are_read),
        TEST(gnu_tar_reads_what_is_written),
        TEST(nothing_is_written_outside),
        TEST(absolute_names_stay_inside),
        TEST(what_nobody_asked_for_is_refused),
        TEST(a_link_in_place_of_the_whole_is_refused),
        TEST(links_devices_and_strange_kinds_are_refused),
        TEST(directories_that_are_there_keep_their_modes),
        TEST(every_broken_stream_has_its_error),
        TEST(extended_headers_that_lie_are_refused),
        TEST(a_file_that_finds_no_room_is_named),
        TEST(messages_do_nothing_to_a_terminal),
        TEST(places_are_told_apart),
        TEST(names_travel_as_their_last_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
