/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-rng: entropy from the host's kernel (virtio 1.2, 5.4).
 *
 * Purpose        the guest's random pool is full before its first program needs a key
 * Queue 0        requestq: device-writable buffers; filled by getrandom(), without a copy
 * Config space   none
 * Owner thread   the loop; no state of its own
 *
 * A driver may ask for gigabytes. It gets at most CHAIN_BYTES a buffer, which the used length tells
 * it, and after TURN_CHAINS buffers the loop's other devices have their turn.
 */
#include "devices/virtio/rng.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define QUEUE_SIZE  64u
#define CHAIN_BYTES ((size_t)64 << 10)
#define TURN_CHAINS 8u

/* How much of `length` was filled. All of it, except where the host's kernel has no getrandom(). */
static size_t fill(uint8_t *at, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t got = getrandom(at + done, length - done, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return done;
}

static uint32_t fill_chain(const struct virtq_chain *chain)
{
    const struct iovec *iov = chain->iov + chain->out_count;
    size_t done = 0;
    for (unsigned i = 0; i < chain->in_count && done < CHAIN_BYTES; i++) {
        size_t wanted = MIN(iov[i].iov_len, CHAIN_BYTES - done);
        size_t got = fill(iov[i].iov_base, wanted);
        done += got;
        if (got < wanted)
            break;
    }
    return (uint32_t)done;
}

static int serve(struct virtio_device *device, unsigned queue)
{
    struct virtq *ring = &device->queues[queue].ring;
    struct virtq_chain chain;
    int got = virtq_pop(ring, &chain);
    if (got == 1)
        virtq_push(ring, chain.head, fill_chain(&chain));
    return got;
}

static void rng_kick(struct virtio_device *device, unsigned queue)
{
    virtio_serve(device, queue, TURN_CHAINS, serve);
}

static void rng_destroy(struct virtio_device *device)
{
    virtio_finish(device);
    free(device);
}

static const struct virtio_ops rng_ops = {
    .kick = rng_kick,
    .destroy = rng_destroy,
};

int virtio_rng_create(struct virtio_device **out, const struct mem *mem, struct loop *loop,
                      const struct irq *irq, struct nido_error *err)
{
    struct virtio_device *rng = calloc(1, sizeof(*rng));
    if (!rng)
        return error_set(err, ENOMEM, "rng: out of memory");
    rng->ops = &rng_ops;
    rng->name = "rng";
    rng->device_id = VIRTIO_ID_RNG;
    rng->queue_count = 1;
    rng->queue_size_max = QUEUE_SIZE;
    int ret = virtio_init(rng, mem, loop, irq, err);
    if (ret < 0) {
        free(rng);
        return ret;
    }
    *out = rng;
    return 0;
}
