/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/stream/token_internal.h"

#include <sys/random.h>

static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";

void tokens_init(struct tokens *tokens, int64_t life_ns)
{
	*tokens = (struct tokens){.life_ns = life_ns};
	pthread_mutex_init(&tokens->lock, NULL);
}

static void release(struct stream_request *request)
{
	if (request->release)
		request->release(request->arg);
}

void tokens_done(struct tokens *tokens)
{
	for (unsigned int i = 0; i < tokens->len; i++)
		release(&tokens->list[i].request);
	free(tokens->list);
	pthread_mutex_destroy(&tokens->lock);
}

/* Every value of a byte gives each letter equally often. */
static int make_token(char ret_token[TOKEN_LEN + 1], struct err *err)
{
	unsigned char random[TOKEN_LEN];

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return err_set(err, -EIO, "the kernel gives no random numbers");
	for (size_t i = 0; i < TOKEN_LEN; i++)
		ret_token[i] = letters[random[i] % 32];
	ret_token[TOKEN_LEN] = 0;
	return 0;
}

/* Lock held: takes the first n out, which are released without the lock. */
static struct token *drop_first(struct tokens *tokens, unsigned int n)
{
	struct token *dropped = n > 0 ? calloc(n, sizeof(*dropped)) : NULL;

	if (!dropped)
		return NULL; /* the next call tries again */
	memcpy(dropped, tokens->list, n * sizeof(*dropped));
	tokens->len -= n;
	memmove(tokens->list, tokens->list + n, tokens->len * sizeof(*tokens->list));
	return dropped;
}

int64_t tokens_expire(struct tokens *tokens)
{
	struct token *dropped;
	unsigned int n = 0;
	int64_t now = now_monotonic_ns(), next = INT64_MAX;

	pthread_mutex_lock(&tokens->lock);
	while (n < tokens->len && tokens->list[n].until_ns <= now)
		n++;
	dropped = drop_first(tokens, n);
	if (tokens->len > 0)
		next = tokens->list[0].until_ns;
	pthread_mutex_unlock(&tokens->lock);
	for (unsigned int i = 0; dropped && i < n; i++)
		release(&dropped[i].request);
	free(dropped);
	return next;
}

int tokens_add(struct tokens *tokens, const struct stream_request *request, char ret_token[TOKEN_LEN + 1],
	       struct err *err)
{
	struct token token = {.request = *request, .until_ns = now_monotonic_ns() + tokens->life_ns};
	int r = make_token(token.text, err);

	if (r < 0)
		return r;
	tokens_expire(tokens);
	pthread_mutex_lock(&tokens->lock);
	if (!tokens->list)
		tokens->list = calloc(STREAM_TOKENS_MAX, sizeof(*tokens->list));
	if (!tokens->list) {
		r = err_oom(err);
	} else if (tokens->len == STREAM_TOKENS_MAX) {
		r = err_set_status(err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
				   "%d streams wait for their client already", STREAM_TOKENS_MAX);
	} else {
		tokens->list[tokens->len++] = token;
		memcpy(ret_token, token.text, sizeof(token.text));
	}
	pthread_mutex_unlock(&tokens->lock);
	return r;
}

/* Takes the same time wherever they differ. */
static bool same(const char *a, const char *b)
{
	unsigned int differ = 0;

	for (size_t i = 0; i < TOKEN_LEN; i++)
		differ |= (unsigned int)(a[i] ^ b[i]);
	return differ == 0;
}

bool tokens_take(struct tokens *tokens, enum stream_kind kind, const char *text,
		 struct stream_request *ret_request)
{
	bool found = false;
	unsigned int i = 0;

	tokens_expire(tokens);
	pthread_mutex_lock(&tokens->lock);
	while (i < tokens->len && !same(tokens->list[i].text, text))
		i++;
	if (i < tokens->len && tokens->list[i].request.kind == kind &&
	    tokens->list[i].until_ns > now_monotonic_ns()) {
		found = true;
		*ret_request = tokens->list[i].request;
		tokens->len--;
		memmove(&tokens->list[i], &tokens->list[i + 1], (tokens->len - i) * sizeof(*tokens->list));
	}
	pthread_mutex_unlock(&tokens->lock);
	return found;
}

unsigned int tokens_len(struct tokens *tokens)
{
	unsigned int len;

	pthread_mutex_lock(&tokens->lock);
	len = tokens->len;
	pthread_mutex_unlock(&tokens->lock);
	return len;
}

/* ---- paths --------------------------------------------------------------------------------------------- */

static const char *const names[] = {
	[STREAM_EXEC] = "exec",
	[STREAM_ATTACH] = "attach",
	[STREAM_FORWARD] = "portforward",
};

const char *stream_kind_name(enum stream_kind kind)
{
	return names[kind];
}

bool stream_path_parse(const char *path, enum stream_kind *ret_kind, char ret_token[TOKEN_LEN + 1])
{
	const char *slash = path[0] == '/' ? strchr(path + 1, '/') : NULL;

	if (!slash || strlen(slash + 1) != TOKEN_LEN || strspn(slash + 1, letters) != TOKEN_LEN)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strlen(names[i]) != (size_t)(slash - path - 1) ||
		    memcmp(names[i], path + 1, strlen(names[i])) != 0)
			continue;
		*ret_kind = (enum stream_kind)i;
		memcpy(ret_token, slash + 1, TOKEN_LEN + 1);
		return true;
	}
	return false;
}
