#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""oci_layout.py DIR ARCHITECTURE CONFIG TAG LAYER...: adds an image to the OCI image layout in DIR.

LAYERs are files, whose names tell their types; CONFIG is the JSON of the image's config. An image that is there by
that tag is replaced.
"""
import hashlib
import json
import os
import sys

LAYER = "application/vnd.oci.image.layer.v1.tar"
TYPES = {".gz": LAYER + "+gzip", ".zst": LAYER + "+zstd", ".tar": LAYER}


def put_blob(folder, data, media_type):
    digest = hashlib.sha256(data).hexdigest()
    os.makedirs(f"{folder}/blobs/sha256", exist_ok=True)
    with open(f"{folder}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}


def put_json(folder, value, media_type):
    return put_blob(folder, json.dumps(value).encode(), media_type)


def put_layer(folder, path):
    with open(path, "rb") as file:
        return put_blob(folder, file.read(), TYPES[os.path.splitext(path)[1]])


def put_image(folder, architecture, config, layers):
    whole = {"architecture": architecture, "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []}}
    manifest = {
        "schemaVersion": 2,
        "config": put_json(folder, whole, "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    return put_json(folder, manifest, "application/vnd.oci.image.manifest.v1+json")


def put_index(folder, manifests):
    with open(f"{folder}/oci-layout", "w", encoding="ascii") as file:
        file.write('{"imageLayoutVersion": "1.0.0"}')
    with open(f"{folder}/index.json", "w", encoding="ascii") as file:
        json.dump({"schemaVersion": 2, "manifests": manifests}, file)


def main():
    folder, architecture, config, tag = sys.argv[1:5]
    manifests = []
    if os.path.exists(f"{folder}/index.json"):
        with open(f"{folder}/index.json", encoding="ascii") as file:
            manifests = json.load(file)["manifests"]
    name = "org.opencontainers.image.ref.name"
    manifests = [other for other in manifests if other["annotations"][name] != tag]
    layers = [put_layer(folder, path) for path in sys.argv[5:]]
    image = put_image(folder, architecture, json.loads(config), layers)
    put_index(folder, manifests + [{**image, "annotations": {name: tag}}])


if __name__ == "__main__":
    main()
