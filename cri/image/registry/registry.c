/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/registry/registry_internal.h"

#include "base/log.h"
#include "base/text.h"
#include "base/util.h"
#include "cri/image/oci/digest.h"
#include "cri/image/oci/manifest.h"

#include <json-c/json.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define REDIRECTS_MAX	5
#define STALE_TRIES_MAX 3     /* attempts at one host without a byte of progress */
#define TRIES_MAX	40    /* attempts at one host in all */
#define PROGRESS_BYTES	65536 /* less of it in an attempt is none: what drips is not waited for */
#define ACCEPT_MANIFEST OCI_TYPE_INDEX ", " OCI_TYPE_MANIFEST ", " DOCKER_TYPE_LIST ", " DOCKER_TYPE_MANIFEST

/* How one attempt at one host ended, when it failed. */
enum next {
	NEXT_STOP,  /* nothing helps: the caller's own failure or cancellation */
	NEXT_RETRY, /* the same host again, after a while */
	NEXT_AGAIN, /* the same host again, at once */
	NEXT_HOST,
};

/* ---- the object ---------------------------------------------------------------------------------------- */

int registry_new(const struct registry_options *options, struct registry **ret_registry, struct err *err)
{
	struct registry *reg = calloc(1, sizeof(*reg));
	int r;

	if (!reg)
		return err_oom(err);
	reg->opt = *options;
	pthread_mutex_init(&reg->lock, NULL);
	r = registry_hosts_load(options->hosts_dir, options->ref->domain, &reg->hosts, err);
	if (r == 0 && registry_copy_auth(reg, options->auth) < 0)
		r = err_oom(err);
	reg->opt.auth = NULL;
	if (r < 0) {
		registry_free(reg);
		return r;
	}
	*ret_registry = reg;
	return 0;
}

struct registry *registry_free(struct registry *reg)
{
	if (!reg)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(reg->state); i++)
		image_secret_free(reg->state[i].auth);
	image_secret_free(reg->username);
	image_secret_free(reg->password);
	image_secret_free(reg->identity_token);
	image_secret_free(reg->registry_token);
	free(reg->server_address);
	registry_hosts_done(&reg->hosts);
	pthread_mutex_destroy(&reg->lock);
	free(reg);
	return NULL;
}

int registry_client_new(struct registry *reg, struct registry_client **ret_client, struct err *err)
{
	struct registry_client *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_oom(err);
	c->reg = reg;
	r = http_new(reg->opt.call, &c->http, err);
	if (r < 0) {
		free(c);
		return r;
	}
	*ret_client = c;
	return 0;
}

struct registry_client *registry_client_free(struct registry_client *c)
{
	if (c) {
		http_free(c->http);
		free(c);
	}
	return NULL;
}

/* ---- one request with redirects ------------------------------------------------------------------------ */

/* Whether the configuration names this origin with http://: for this registry, or for that host. */
static bool plain_http_is_configured(const struct registry *reg, const char *url)
{
	const char *host = url + strlen("http://");
	size_t len = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:");
	/* It becomes the name of a directory. */
	char *domain CLEANUP_FREE = host[0] != '.' && strchr("/?#", host[len]) ? strndup(host, len) : NULL;
	struct registry_hosts hosts = {0};
	bool found = false;

	for (size_t i = 0; i < reg->hosts.n_items && !found; i++)
		found = http_same_origin(reg->hosts.items[i].base, url);
	if (found || !domain || registry_hosts_load(reg->opt.hosts_dir, domain, &hosts, NULL) < 0)
		return found;
	for (size_t i = 0; i < hosts.n_items && !found; i++)
		found = http_same_origin(hosts.items[i].base, url);
	registry_hosts_done(&hosts);
	return found;
}

/*
 * A blob is verified by its digest, so a redirect of it may leave TLS where the administrator has said so;
 * anything else may not.
 */
static int check_redirect(const struct registry *reg, const struct http_request *req, const char *to,
			  struct err *err)
{
	bool tls = strncasecmp(req->url, "https://", 8) == 0, plain = strncasecmp(to, "https://", 8) != 0;

	if (strncasecmp(to, "https://", 8) != 0 && strncasecmp(to, "http://", 7) != 0)
		return err_set_status(err, -EBADMSG, ERR_UNAVAILABLE, "redirected to what is not HTTP");
	if (tls && plain && !(req->bulk && plain_http_is_configured(reg, to)))
		return err_set_status(err, -EBADMSG, ERR_UNAVAILABLE, "redirected from HTTPS to HTTP");
	return 0;
}

static bool is_redirect(long status)
{
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static int follow(struct registry_client *c, const struct http_request *first, struct http_response *resp,
		  struct err *err)
{
	struct http_request req = *first;
	char *url CLEANUP_FREE = NULL;

	for (int n = 0;; n++) {
		int r = http_do(c->http, &req, resp, err);

		/* Only the registry itself may ask for its credentials, not where it sends a request. */
		if (!req.same_origin)
			auth_challenge_done(&resp->challenge);
		if (r < 0 || !is_redirect(resp->status) || !resp->redirect)
			return r;
		if (n == REDIRECTS_MAX)
			return err_set_status(err, -ELOOP, ERR_UNAVAILABLE, "more than %d redirects",
					      REDIRECTS_MAX);
		r = check_redirect(c->reg, &req, resp->redirect, err);
		if (r < 0) {
			resp->fault = HTTP_FAULT_ANSWER;
			return r;
		}
		free(url);
		url = move_ptr(resp->redirect);
		http_response_done(resp);
		req.url = url;
		if (!http_same_origin(first->url, url)) {
			req.same_origin = false;
			req.authorization = NULL;
		} else {
			req.same_origin = first->same_origin;
			req.authorization = first->authorization;
		}
	}
}

/* ---- what an answer means ------------------------------------------------------------------------------ */

/* The first error of {"errors":[{"code","message"}]} if the body holds one. */
static void registry_words(const struct http_response *resp, char *out, size_t room)
{
	json_tokener *tok = json_tokener_new_ex(8);
	json_object *root = NULL, *list, *first, *code, *text;

	out[0] = 0;
	if (tok && resp->body.len > 0)
		root = json_tokener_parse_ex(tok, (const char *)buf_data(&resp->body), (int)resp->body.len);
	if (tok)
		json_tokener_free(tok);
	if (json_object_is_type(root, json_type_object) && json_object_object_get_ex(root, "errors", &list) &&
	    json_object_is_type(list, json_type_array) && json_object_array_length(list) > 0) {
		first = json_object_array_get_idx(list, 0);
		if (json_object_is_type(first, json_type_object) &&
		    json_object_object_get_ex(first, "code", &code) &&
		    json_object_object_get_ex(first, "message", &text))
			snprintf(out, room, ": %.60s: %.200s", json_object_get_string(code),
				 json_object_get_string(text));
	}
	json_object_put(root);
	/* The registry's words reach a message: nothing but printable ASCII. */
	text_copy_ascii(out, strlen(out) + 1, out, strlen(out));
}

static enum next judge_status(const char *what, const struct registry_host *host,
			      const struct http_response *resp, struct err *err)
{
	char words[300];

	registry_words(resp, words, sizeof(words));
	switch (resp->status) {
	case 401:
		err_set_status(err, -EACCES, ERR_UNAUTHENTICATED, "%s: %s: authorization failed%s",
			       host->host, what, words);
		return NEXT_HOST;
	case 403:
		err_set_status(err, -EACCES, ERR_PERMISSION_DENIED, "%s: %s: access denied%s", host->host,
			       what, words);
		return NEXT_HOST;
	case 404:
		err_set(err, -ENOENT, "%s: %s: not found%s", host->host, what, words);
		return NEXT_HOST;
	case 408:
	case 429:
	case 500:
	case 502:
	case 503:
	case 504:
		err_set_status(err, -EHOSTUNREACH, ERR_UNAVAILABLE, "%s: %s: HTTP %ld%s", host->host, what,
			       resp->status, words);
		return NEXT_RETRY;
	default:
		err_set_status(err, -EIO, ERR_UNAVAILABLE, "%s: %s: HTTP %ld%s", host->host, what,
			       resp->status, words);
		return NEXT_HOST;
	}
}

static enum next judge_fault(struct registry *reg, size_t i, const struct http_response *resp,
			     struct err *err)
{
	const struct registry_host *host = &reg->hosts.items[i];
	bool others =
		i + 1 <
		reg->hosts.n_items; /* the last one is asked each time: its words are what the user reads */

	switch (resp->fault) {
	case HTTP_FAULT_SINK:
	case HTTP_FAULT_STOPPED:
		return NEXT_STOP;
	case HTTP_FAULT_TLS:
		if (resp->no_tls && host->http_fallback && !reg->state[i].http) {
			reg->state[i].http = true;
			return NEXT_AGAIN;
		}
		reg->state[i].dead = others;
		break;
	case HTTP_FAULT_UNREACHABLE:
		reg->state[i].dead = others;
		break;
	case HTTP_FAULT_BROKEN:
		err_wrap(err, "%s", host->host);
		return NEXT_RETRY;
	default:
		break;
	}
	err_wrap(err, "%s", host->host);
	return NEXT_HOST;
}

static char *make_url(const struct registry *reg, size_t i, const char *kind, const char *what)
{
	const struct registry_host *host = &reg->hosts.items[i];
	const struct image_ref *ref = reg->opt.ref;
	const char *base = host->base;
	const char *scheme = "";
	/* A mirror is told whose image it is asked for, as containerd does. */
	bool mirror = strcasecmp(host->host, image_ref_default_host(ref->domain)) != 0;

	if (reg->state[i].http && str_starts(base, "https://")) {
		scheme = "http://";
		base += 8;
	}
	return xasprintf("%s%s/%s/%s/%s%s%s", scheme, base, ref->path, kind, what, mirror ? "?ns=" : "",
			 mirror ? ref->domain : "");
}

/* One exchange with host i, authorization included. Success: a 200 or 206 in *resp. */
static int exchange(struct registry_client *c, size_t i, struct http_request *req, const char *kind,
		    const char *what, struct http_response *resp, enum next *next, struct err *err)
{
	struct registry *reg = c->reg;
	const struct registry_host *host = &reg->hosts.items[i];
	char *url CLEANUP_FREE = make_url(reg, i, kind, what);
	bool fresh = false;

	if (!url) {
		*next = NEXT_STOP;
		return err_oom(err);
	}
	for (;;) {
		char *auth = registry_auth_of(reg, i);
		int r;

		req->url = url;
		req->tls = host;
		req->same_origin = true;
		req->authorization = auth;
		r = follow(c, req, resp, err);
		if (r < 0) {
			*next = judge_fault(reg, i, resp, err);
		} else if (resp->status == 200 || (resp->status == 206 && req->range_from > 0)) {
			image_secret_free(auth);
			return 0;
		} else if (resp->status == 401 && resp->challenge.scheme != AUTH_NONE) {
			r = registry_answer_challenge(c, i, &resp->challenge, auth, fresh, err);
			http_response_done(resp);
			image_secret_free(auth);
			fresh = true;
			if (r == 0)
				continue;
			*next = r == -ECANCELED ? NEXT_STOP : NEXT_HOST;
			return r;
		} else {
			*next = judge_status(what, host, resp, err);
			r = err->code;
		}
		image_secret_free(auth);
		return r;
	}
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

/* 0.5 s, 1 s, 2 s …, or what the registry asks for. */
static int back_off(const struct registry *reg, int tries, long retry_after_s, struct err *err)
{
	int64_t wait_ns = (NS_PER_SEC / 2) << (tries > 4 ? 4 : tries - 1);

	if (retry_after_s > 0)
		wait_ns = retry_after_s * NS_PER_SEC;
	return call_sleep(reg->opt.call, now_monotonic_ns() + wait_ns, err);
}

/* ---- manifests ----------------------------------------------------------------------------------------- */

static bool usable(const struct registry *reg, size_t i, bool resolve)
{
	const struct registry_host *host = &reg->hosts.items[i];

	if (reg->state[i].dead)
		return false;
	return resolve ? host->resolve : host->pull;
}

static int no_host(const struct registry *reg, struct err *err)
{
	if (err->code < 0)
		return err->code;
	return err_set_status(err, -EHOSTUNREACH, ERR_UNAVAILABLE, "no host serves the registry %s",
			      reg->opt.ref->domain);
}

/* What was asked for by digest must have it; a host that answers something else is passed over. */
static int check_manifest_digest(const struct registry_client *c, size_t i, const char *what, char **data,
				 size_t len, char **type, enum next *next, struct err *err)
{
	char found[IMAGE_DIGEST_LEN + 1];

	if (!image_digest_valid(what))
		return 0;
	image_digest_of(*data, len, found);
	if (str_eq(found, what))
		return 0;
	free(*data);
	free(*type);
	*data = *type = NULL;
	*next = NEXT_HOST;
	return err_set_status(err, -EBADMSG, ERR_DATA_LOSS, "digest mismatch: %s answers manifest %s with %s",
			      c->reg->hosts.items[i].host, what, found);
}

static int manifest_from(struct registry_client *c, size_t i, const char *what, size_t max, char **ret_data,
			 size_t *ret_len, char **ret_type, enum next *next, struct err *err)
{
	for (int tries = 1;; tries++) {
		struct http_request req = {.accept = ACCEPT_MANIFEST, .max_bytes = max};
		struct http_response resp = {0};
		long wait_s;
		int r = exchange(c, i, &req, "manifests", what, &resp, next, err);

		if (r == 0) {
			*ret_data = strndup((const char *)(resp.body.len ? buf_data(&resp.body) : (void *)""),
					    resp.body.len);
			*ret_type = strdup(resp.content_type);
			/* A NUL inside would end the copy early: then it is not JSON either. */
			*ret_len = *ret_data ? strlen(*ret_data) : 0;
			http_response_done(&resp);
			if (*ret_data && *ret_type)
				return check_manifest_digest(c, i, what, ret_data, *ret_len, ret_type, next,
							     err);
			free(*ret_data);
			free(*ret_type);
			*ret_data = *ret_type = NULL;
			*next = NEXT_STOP;
			return err_oom(err);
		}
		wait_s = resp.retry_after_s;
		http_response_done(&resp);
		if (*next == NEXT_AGAIN)
			continue;
		if (*next != NEXT_RETRY || tries >= STALE_TRIES_MAX)
			return r;
		log_debug("registry: %s; retrying (attempt %d)", err->msg, tries + 1);
		if (back_off(c->reg, tries, wait_s, err) < 0) {
			*next = NEXT_STOP;
			return -ECANCELED;
		}
	}
}

int registry_manifest(struct registry_client *c, const char *what, size_t max_bytes, char **ret_data,
		      size_t *ret_len, char **ret_type, struct err *err)
{
	bool resolve = !image_digest_valid(what);
	struct err last = ERR_INIT;

	for (size_t i = 0; i < c->reg->hosts.n_items; i++) {
		enum next next = NEXT_HOST;

		if (!usable(c->reg, i, resolve))
			continue;
		if (manifest_from(c, i, what, max_bytes, ret_data, ret_len, ret_type, &next, &last) == 0)
			return 0;
		if (next == NEXT_STOP)
			break;
		if (i + 1 < c->reg->hosts.n_items)
			log_info("registry: %s; trying the next host", last.msg);
	}
	no_host(c->reg, &last);
	return err_copy(err, &last);
}

/* ---- blobs --------------------------------------------------------------------------------------------- */

struct blob_fetch {
	const struct registry_sink *sink;
	bool too_much;
};

static int blob_begin(void *arg, uint64_t offset, struct err *err)
{
	struct blob_fetch *f = arg;

	if (offset == f->sink->have(f->sink->arg))
		return 0;
	return f->sink->restart(f->sink->arg, err); /* offset is 0: the server ignores ranges */
}

static int blob_data(void *arg, const void *data, size_t len, struct err *err)
{
	struct blob_fetch *f = arg;

	if (len > f->sink->size_bytes - f->sink->have(f->sink->arg)) {
		f->too_much = true;
		return err_set_status(err, -EFBIG, ERR_DATA_LOSS,
				      "the registry sends more than the %llu bytes that the manifest tells",
				      (unsigned long long)f->sink->size_bytes);
	}
	return f->sink->data(f->sink->arg, data, len, err);
}

static int blob_once(struct registry_client *c, size_t i, const char *digest,
		     const struct registry_sink *sink, long *ret_wait_s, enum next *next, struct err *err)
{
	struct blob_fetch f = {.sink = sink};
	struct http_request req = {.bulk = true,
				   .stall_s = c->reg->opt.stall_s,
				   .range_from = sink->have(sink->arg),
				   .begin = blob_begin,
				   .data = blob_data,
				   .arg = &f};
	struct http_response resp = {0};
	int r = exchange(c, i, &req, "blobs", digest, &resp, next, err);

	*ret_wait_s = resp.retry_after_s;
	if (r < 0 && f.too_much) {
		struct err ignored = ERR_INIT;

		*next = sink->restart(sink->arg, &ignored) < 0 ? NEXT_STOP : NEXT_HOST;
	} else if (r < 0 && resp.status == 416) { /* our part is not the server's */
		*next = sink->restart(sink->arg, err) < 0 ? NEXT_STOP : NEXT_RETRY;
	} else if (r < 0 && resp.fault == HTTP_FAULT_ANSWER && req.range_from > 0) {
		*next = sink->restart(sink->arg, err) < 0 ? NEXT_STOP : NEXT_RETRY;
	} else if (r == 0 && sink->have(sink->arg) < sink->size_bytes) {
		*next = NEXT_RETRY;
		r = err_set_status(
			err, -EBADMSG, ERR_DATA_LOSS, "%s: blob %s is truncated: %llu of %llu bytes came",
			c->reg->hosts.items[i].host, digest, (unsigned long long)sink->have(sink->arg),
			(unsigned long long)sink->size_bytes);
	}
	http_response_done(&resp);
	return r;
}

static int blob_from(struct registry_client *c, size_t i, const char *digest,
		     const struct registry_sink *sink, enum next *next, struct err *err)
{
	int stale = 0;

	for (int tries = 1;; tries++) {
		uint64_t before = sink->have(sink->arg);
		long wait_s = 0;
		int r = 0;

		if (before < sink->size_bytes || sink->size_bytes == 0)
			r = blob_once(c, i, digest, sink, &wait_s, next, err);
		if (r == 0) {
			*next = NEXT_HOST;
			return sink->finish(sink->arg, err);
		}
		if (*next == NEXT_AGAIN)
			continue;
		stale = sink->have(sink->arg) >= before + PROGRESS_BYTES ? 0 : stale + 1;
		if (*next != NEXT_RETRY || stale >= STALE_TRIES_MAX || tries >= TRIES_MAX)
			return r;
		log_debug("registry: %s; retrying (attempt %d) from byte %llu", err->msg, tries + 1,
			  (unsigned long long)sink->have(sink->arg));
		if (back_off(c->reg, stale + 1, wait_s, err) < 0) {
			*next = NEXT_STOP;
			return -ECANCELED;
		}
	}
}

int registry_blob(struct registry_client *c, const char *digest, const struct registry_sink *sink,
		  struct err *err)
{
	struct err last = ERR_INIT;

	for (size_t i = 0; i < c->reg->hosts.n_items; i++) {
		enum next next = NEXT_HOST;

		if (!usable(c->reg, i, false))
			continue;
		if (blob_from(c, i, digest, sink, &next, &last) == 0)
			return 0;
		if (next == NEXT_STOP)
			break;
		if (i + 1 < c->reg->hosts.n_items)
			log_info("registry: %s; trying the next host", last.msg);
	}
	no_host(c->reg, &last);
	return err_copy(err, &last);
}
