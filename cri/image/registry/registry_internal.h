/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry_internal.h: what the registry client's files share.
 *
 * Threads:   a registry is shared by the threads of one pull, each with a client of its own; only what is
 *            marked below changes.
 * Secrets:   every string that holds credentials is freed by image_secret_free, and is in no message.
 */
#ifndef CRI_IMAGE_REGISTRY_REGISTRY_INTERNAL_H
#define CRI_IMAGE_REGISTRY_REGISTRY_INTERNAL_H

#include "cri/image/registry/http_internal.h"
#include "cri/image/registry/registry.h"

#include <pthread.h>
#include <stdatomic.h>

struct host_state {
	char *auth;	  /* the Authorization header that works, NULL: none yet; under lock */
	atomic_bool dead; /* did not answer in this pull */
	atomic_bool http; /* fell back from TLS */
};

struct registry {
	struct registry_options opt;
	struct registry_hosts hosts;
	struct host_state state[REGISTRY_HOSTS_MAX + 1];
	char *username, *password, *identity_token, *registry_token, *server_address;
	pthread_mutex_t lock; /* guards state[].auth; held for copying a string only */
};

struct registry_client {
	struct registry *reg;
	struct http *http;
};

/* Credentials of a pull, copied. -ENOMEM. */
int registry_copy_auth(struct registry *reg, const struct image_auth *auth);
/*
 * A copy of the Authorization header that the host of this index is known to take (image_secret_free), or
 * NULL.
 */
char *registry_auth_of(struct registry *reg, size_t host);
/*
 * Answers a 401 of the host of index i. `used` is the header that was refused (NULL: none was sent), `fresh`
 * that it was made for this request. 0: the host has a header worth trying.
 */
int registry_answer_challenge(struct registry_client *c, size_t i, const struct auth_challenge *ch,
			      const char *used, bool fresh, struct err *err);

#endif
