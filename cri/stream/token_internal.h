/* SPDX-License-Identifier: Apache-2.0 */
/*
 * token_internal.h: tokens of offers, and the paths that carry them.
 *
 * Threads:   any; the table has a lock of its own.
 * Ownership: the table owns the requests of the tokens in it.
 * Limits:    STREAM_TOKENS_MAX tokens of TOKEN_LEN characters: 160 random bits, base32's letters in lower
 *            case.
 */
#ifndef CRI_STREAM_TOKEN_INTERNAL_H
#define CRI_STREAM_TOKEN_INTERNAL_H

#include "cri/stream/stream.h"

#include <pthread.h>

#define TOKEN_LEN 32

struct token {
	char text[TOKEN_LEN + 1];
	int64_t until_ns; /* CLOCK_MONOTONIC */
	struct stream_request request;
};
struct tokens {
	pthread_mutex_t lock;
	int64_t life_ns;
	struct token
		*list; /* STREAM_TOKENS_MAX of them, from the first offer on; in the order of their end */
	unsigned int len;
};

void tokens_init(struct tokens *tokens, int64_t life_ns);
void tokens_done(struct tokens *tokens);
int tokens_add(struct tokens *tokens, const struct stream_request *request, char ret_token[TOKEN_LEN + 1],
	       struct err *err);
/* Takes a token out, with its request: false if there is none, it is too old, or of another kind. */
bool tokens_take(struct tokens *tokens, enum stream_kind kind, const char *text,
		 struct stream_request *ret_request);
/* Drops those that are too old; returns when the next one will be, INT64_MAX if there is none. */
int64_t tokens_expire(struct tokens *tokens);
unsigned int tokens_len(struct tokens *tokens);

/* "exec", "attach", "portforward". */
const char *stream_kind_name(enum stream_kind kind);
/* "/exec/<token>" into its parts. False if it is no such path. */
bool stream_path_parse(const char *path, enum stream_kind *ret_kind, char ret_token[TOKEN_LEN + 1]);

#endif
