/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NIDO_ERROR_H
#define NIDO_ERROR_H

#define NIDO_ERROR_TEXT_BYTES 512

/* What went wrong. Owned by the caller; valid after a call has returned a negative errno. */
struct nido_error {
    int code;                         /* a positive errno */
    char text[NIDO_ERROR_TEXT_BYTES]; /* one sentence without a newline: object, cause, next step */
};

#endif
