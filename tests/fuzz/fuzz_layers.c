/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers over each other, made of few names, so that they meet. Each member is three bytes or more: what
 * it is, its path and, for links, where they lead; in a path, a byte is a name or a slash.
 *
 * Passes when no sanitizer objects, every refusal has a sentence, and the tree is one that could be
 * unpacked: every path is as it would be walked, no name leads out, every item's names lead back to it.
 */
#include "unpack/tree.h"

#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES 256u

static void take_path(struct input *input, char path[TEXT_BYTES])
{
    static const char *const pieces[] = {
        "/",    "a",        "b",  "c",      "..", ".", ".wh.a", "d", ".wh..wh..opq",
        "/../", ".wh..wh.", "/a", "/.wh.b", "ab"};
    unsigned count = input_byte(input) % 12u;
    size_t length = 0;
    path[0] = '\0';
    for (unsigned i = 0; i < count; i++)
        length +=
            (size_t)snprintf(path + length, TEXT_BYTES - length, "%s",
                             pieces[input_byte(input) % (sizeof(pieces) / sizeof(pieces[0]))]);
}

static void take_member(struct input *input, char path[TEXT_BYTES], char link[TEXT_BYTES],
                        struct member *member)
{
    static const mode_t modes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFREG, S_IFIFO};
    uint8_t what = input_byte(input) % 5u;
    *member = (struct member){.path = path, .mode = modes[what] | 0644, .is_hard_link = what == 3};
    take_path(input, path);
    if (what == 2 || what == 3) {
        take_path(input, link);
        member->link = link;
    }
}

static void check_node(const struct tree *tree, const struct tree_node *node)
{
    char path[TREE_PATH_BYTES];
    bool found = false;
    tree_path(node, path);
    PROMISE(strlen(path) == node->depth_bytes && path[0] != '/' && !strstr(path, "//"));
    PROMISE(node->name[0] && !strchr(node->name, '/') && strcmp(node->name, ".") != 0 &&
            strcmp(node->name, "..") != 0);
    PROMISE(!node->parent->item && tree_child(tree, node->parent, node->name) == node);
    PROMISE(!node->item || !node->first);
    for (const struct tree_node *name = node->item ? node->item->names : NULL; name;
         name = name->same)
        found |= name == node;
    PROMISE(!node->item || found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct tree *tree;
    unsigned layer = 0;
    PROMISE(tree_create(&tree, NULL) == 0);
    for (uint64_t ordinal = 0; input.left; ordinal++) {
        char path[TEXT_BYTES], link[TEXT_BYTES] = "";
        struct nido_error err = {0};
        struct member member;
        layer += input_byte(&input) % 4 == 0;
        take_member(&input, path, link, &member);
        if (tree_put(tree, layer, ordinal, &member, true, &err) < 0)
            PROMISE(err.code && err.text[0]);
    }
    for (const struct tree_node *node = tree_after(tree_root(tree)); node; node = tree_after(node))
        check_node(tree, node);
    tree_destroy(tree);
    return 0;
}
