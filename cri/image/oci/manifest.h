/* SPDX-License-Identifier: Apache-2.0 */
/*
 * manifest.h: the JSON documents of an image: index, manifest, config.
 *
 * Purpose:   turns untrusted bytes into checked structs. OCI image index and manifest, Docker manifest list
 *            and schema 2; schema 1 is refused. A document that is both an index and a manifest is refused
 *            (GHSA-77vh-xpmg-72qh).
 * Source:    OCI image-spec 1.1 image-index.md, manifest.md, config.md, media-types.md; Docker distribution
 *            spec "manifest v2, schema 2".
 * Limits:    OCI_MANIFEST_MAX and OCI_CONFIG_MAX bytes, OCI_LAYERS_MAX layers, JSON nested 32 deep.
 * Threads:   no shared state.
 * Ownership: the structs own what they point to; *_done frees.
 * Errors:    -EBADMSG with status DataLoss for what is not such a document, -EOPNOTSUPP (Unimplemented) for
 *            what is a valid one of a kind that cannot be run, -ENOENT for an index without this platform.
 */
#ifndef CRI_IMAGE_OCI_MANIFEST_H
#define CRI_IMAGE_OCI_MANIFEST_H

#include "base/err.h"
#include "cri/image/oci/reference.h"

#include <stddef.h>
#include <stdint.h>

#define OCI_MANIFEST_MAX (4u << 20)
#define OCI_CONFIG_MAX	 (8u << 20)
#define OCI_LAYERS_MAX	 200
#define OCI_BLOB_MAX	 (1ull << 40) /* one layer, compressed */

#define OCI_TYPE_INDEX	     "application/vnd.oci.image.index.v1+json"
#define OCI_TYPE_MANIFEST    "application/vnd.oci.image.manifest.v1+json"
#define OCI_TYPE_CONFIG	     "application/vnd.oci.image.config.v1+json"
#define OCI_TYPE_LAYER	     "application/vnd.oci.image.layer.v1.tar"
#define OCI_TYPE_LAYER_GZIP  OCI_TYPE_LAYER "+gzip"
#define OCI_TYPE_LAYER_ZSTD  OCI_TYPE_LAYER "+zstd"
#define DOCKER_TYPE_LIST     "application/vnd.docker.distribution.manifest.list.v2+json"
#define DOCKER_TYPE_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_TYPE_CONFIG   "application/vnd.docker.container.image.v1+json"

struct oci_descriptor {
	char *media_type;
	char digest[IMAGE_DIGEST_LEN + 1];
	uint64_t size_bytes;
	char *os, *architecture, *variant; /* of an index entry; NULL if not given */
	char *ref_name; /* annotation org.opencontainers.image.ref.name or io.containerd.image.name */
};

enum oci_kind {
	OCI_KIND_INDEX,
	OCI_KIND_MANIFEST,
};

struct oci_manifest {
	enum oci_kind kind;
	char *media_type;	      /* never NULL */
	struct oci_descriptor config; /* manifest */
	struct oci_descriptor *items; /* layers, base first, or the index's entries */
	size_t n_items;
};

/*
 * content_type is what the registry said (may be NULL); the document's own mediaType must agree with it where
 * both exist.
 */
int oci_manifest_parse(const char *data, size_t len, const char *content_type,
		       struct oci_manifest *ret_manifest, struct err *err);
void oci_manifest_done(struct oci_manifest *manifest);
/* The index's entry for this machine: the pointer lives as long as the index. -ENOENT lists what there is. */
int oci_index_select(const struct oci_manifest *index, const struct oci_descriptor **ret_entry,
		     struct err *err);
/* Refuses layer and config media types that cannot be unpacked, naming them. */
int oci_manifest_check_types(const struct oci_manifest *manifest, struct err *err);

/* What runs of an image's config: https://github.com/opencontainers/image-spec/blob/main/config.md */
struct image_config {
	char **env, **entrypoint, **cmd;
	char *user, *working_dir, *stop_signal;
	char **volumes; /* paths */
	char **labels;	/* key, value, key, value, … */
	char *architecture, *os;
};

/* What a config blob holds: the run-time part and the layers' uncompressed digests, base first. */
int oci_config_parse(const char *data, size_t len, struct image_config *ret_config, char ***ret_diff_ids,
		     struct err *err);
void image_config_done(struct image_config *config);
/* Chain ids ("sha256:…") of diff ids: image-spec config.md "Layer ChainID". NULL on ENOMEM. */
char **oci_chain_ids(char *const *diff_ids);

#endif
