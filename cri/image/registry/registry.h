/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.h: one repository of one registry, over HTTP(S): manifests and blobs from the hosts that serve it.
 *
 * Purpose:   asks the hosts of hosts_internal.h in order, falls through on failure, answers challenges,
 *            retries what is transient, follows redirects without taking credentials, headers or client
 *            certificates to another origin. A challenge counts only from the origin that was asked. A
 *            redirect leaves TLS only for a blob, and only to a host that is configured with http://.
 * Source:    OCI distribution-spec 1.1 "Pulling manifests", "Pulling blobs"; RFC 9110 for ranges.
 * Threads:   struct registry is shared by the threads of one pull; each thread has a registry_client of its
 *            own. Calls block. No lock is held across a request.
 * Limits:    connect 20 s (dial_timeout in hosts.toml), 60 s slower than 1 KiB/s, 2 min for a manifest or
 *            token, 5 redirects, 3 attempts a host without 64 KiB of progress.
 * Errors:    ERR_UNAVAILABLE: not reached; ERR_NOT_FOUND; ERR_UNAUTHENTICATED and ERR_PERMISSION_DENIED;
 *            ERR_DATA_LOSS; those of the call. The last host's error is the one returned, for that is the
 *            registry itself.
 * Secrets:   credentials and tokens are wiped with the object and never in a message.
 */
#ifndef CRI_IMAGE_REGISTRY_REGISTRY_H
#define CRI_IMAGE_REGISTRY_REGISTRY_H

#include "base/err.h"
#include "cri/core/call.h"
#include "cri/image/oci/reference.h"
#include "cri/image/registry/auth.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct registry;
struct registry_client;

/* What it is given must outlive it, but for auth, which is copied. */
struct registry_options {
	const struct image_ref *ref;
	const char *hosts_dir;
	const struct image_auth *auth; /* may be NULL */
	struct call *call;	       /* ends every request and wait; may be NULL */
	long stall_s;		       /* so long a blob may come slower than 1 KiB/s; 0: 60 s */
};
int registry_new(const struct registry_options *options, struct registry **ret_registry, struct err *err);
struct registry *registry_free(struct registry *registry);
int registry_client_new(struct registry *registry, struct registry_client **ret_client, struct err *err);
struct registry_client *registry_client_free(struct registry_client *client);

/*
 * GET manifests/<what>, a tag or a digest; the body (NUL-terminated beyond its length) and its content type,
 * both unverified.
 */
int registry_manifest(struct registry_client *client, const char *what, size_t max_bytes, char **ret_data,
		      size_t *ret_len, char **ret_type, struct err *err);

/*
 * Where a blob goes. Callbacks run in the calling thread; an error of theirs other than finish's ends the
 * fetch.
 */
struct registry_sink {
	uint64_t size_bytes;			    /* never more is delivered */
	uint64_t (*have)(void *arg);		    /* bytes held: where to go on */
	int (*restart)(void *arg, struct err *err); /* forget what is held */
	int (*data)(void *arg, const void *data, size_t len, struct err *err);
	int (*finish)(void *arg, struct err *err); /* all is there: verify; failure: the next host */
	void *arg;
};
int registry_blob(struct registry_client *client, const char *digest, const struct registry_sink *sink,
		  struct err *err);

#endif
