/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_LIB_ROOT_IMAGE_H
#define NIDO_LIB_ROOT_IMAGE_H

/* What --root may name, recognised by what is there and not by its name. */

#include "base/error.h"

enum root_kind { ROOT_DIRECTORY, ROOT_IMAGE, ROOT_TAR };

struct root_image {
    enum root_kind kind;
    const char *fstype; /* of a ROOT_IMAGE: "ext4", "erofs" or "squashfs" */
};

/* A ROOT_TAR is a tar archive, or a packed file that may be one: somebody has to look into it. -EINVAL: it is something else, which the sentence names. */
int root_image_recognise(const char *path, struct root_image *image, struct nido_error *err);

#endif
