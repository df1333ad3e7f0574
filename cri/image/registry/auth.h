/* SPDX-License-Identifier: Apache-2.0 */
/*
 * auth.h: what a registry asks for in WWW-Authenticate, and the answers.
 *
 * Purpose:   parses challenges and token answers; no I/O. The exchange itself is login.c's.
 * Source:    RFC 9110 section 11.6.1, RFC 7617 (basic), RFC 6750 (bearer),
 *            https://distribution.github.io/distribution/spec/auth/token/ and …/oauth/.
 * Limits:    a header of 8 KiB, parameters of 2 KiB, tokens of 64 KiB.
 * Secrets:   buffers that held one are wiped (image_secret_free).
 * Threads:   no shared state.
 */
#ifndef CRI_IMAGE_REGISTRY_AUTH_H
#define CRI_IMAGE_REGISTRY_AUTH_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* What a client gives for a pull; the strings are the caller's. */
struct image_auth {
	const char *username, *password, *identity_token, *registry_token, *server_address;
	const char *auth; /* base64 of "username:password", used where username is empty */
};

enum auth_scheme {
	AUTH_NONE,
	AUTH_BASIC,
	AUTH_BEARER,
};

struct auth_challenge {
	enum auth_scheme scheme;
	char *realm, *service, *scope; /* NULL if not given */
};

/*
 * Takes the best challenge of one header's value (bearer before basic) if it beats what *challenge holds
 * already. Unknown schemes and broken parameters are skipped, never an error. -ENOMEM only.
 */
int auth_challenge_parse(const char *header, struct auth_challenge *challenge);
void auth_challenge_done(struct auth_challenge *challenge);
/* "Basic <base64(user:password)>"; NULL on ENOMEM. Free by image_secret_free. */
char *auth_basic_header(const char *username, const char *password);
/* "Bearer <token>" from a token server's JSON answer; -EBADMSG if it holds no usable token. */
int auth_token_parse(const char *json, size_t len, char **ret_header, struct err *err);
/* "Bearer <token>" of a token that is known; NULL on ENOMEM or if it is not one. */
char *auth_bearer_header(const char *token);
/* Wipes and frees; returns NULL. */
char *image_secret_free(char *secret);

#endif
