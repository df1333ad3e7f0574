/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reference.h: image references: "busybox", "registry:5000/team/app:v1", "app@sha256:…".
 *
 * Purpose:   parsing and the normalisation that Docker and containerd do: no registry means docker.io, a
 *            single path component there means library/…, neither tag nor digest means the tag "latest"; a
 *            tag beside a digest is kept but the digest decides.
 * Source:    https://github.com/distribution/reference (grammar in reference.go), OCI distribution-spec 1.1
 *            "Pulling manifests".
 * Limits:    name 255 bytes, tag 128, digests sha256 only.
 * Threads:   no shared state.
 * Ownership: struct image_ref owns its strings; image_ref_done frees them.
 * Errors:    -EINVAL (InvalidArgument) naming the reference and what is wrong in it.
 */
#ifndef CRI_IMAGE_OCI_REFERENCE_H
#define CRI_IMAGE_OCI_REFERENCE_H

#include "base/err.h"

#include <stdbool.h>

#define IMAGE_DIGEST_LEN 71 /* "sha256:" and 64 hex digits */

struct image_ref {
	char *name;   /* "docker.io/library/busybox" */
	char *domain; /* "docker.io" */
	char *path;   /* "library/busybox" */
	char *tag;    /* NULL if only a digest was given */
	char *digest; /* "sha256:…" or NULL */
};

int image_ref_parse(const char *text, struct image_ref *ret_ref, struct err *err);
void image_ref_done(struct image_ref *ref);
/* "sha256:" and 64 lower-case hex digits, nothing else. */
bool image_digest_valid(const char *digest);
/*
 * The host that serves a registry's API where nothing else is configured: docker.io's is
 * registry-1.docker.io.
 */
const char *image_ref_default_host(const char *domain);
/* localhost, 127.0.0.0/8 or [::1], with or without a port. */
bool image_host_is_loopback(const char *host);

#endif
