/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/registry/http_internal.h"

#include "base/util.h"
#include "base/version.h"

#include <curl/curl.h>
#include <pthread.h>

#define STALL_S	      60L
#define SLOW_BYTES    1024L /* a second: less for STALL_S is a stall */
#define SMALL_TIME_S  120L
#define ERROR_BODY    65536u
#define CA_FILE_MAX   (4u << 20)
#define RETRY_AFTER_S 30
#define POLL_MS	      10000 /* at the longest: curl wakes earlier for its own limits */

struct http {
	CURLM *multi; /* keeps the connections */
	CURL *easy;
	struct call *call;
	int end_fd; /* the call's */
	char error[CURL_ERROR_SIZE];
};

/* One call's state, seen by curl's callbacks. */
struct exchange {
	struct http *http;
	const struct http_request *req;
	struct http_response *resp;
	struct err *err;
	bool begun;
	int failed; /* what begin or data returned */
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_init_result;

static void init_curl(void)
{
	curl_init_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int http_new(struct call *call, struct http **ret_http, struct err *err)
{
	struct http *h;
	int r;

	pthread_once(&curl_once, init_curl);
	if (curl_init_result != CURLE_OK)
		return err_set(err, -EIO, "libcurl: %s", curl_easy_strerror(curl_init_result));
	h = calloc(1, sizeof(*h));
	if (!h)
		return err_oom(err);
	h->call = call;
	r = call_fd(call, &h->end_fd, err);
	if (r == 0) {
		h->easy = curl_easy_init();
		h->multi = curl_multi_init();
		if (!h->easy || !h->multi ||
		    curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, 4L) != CURLM_OK)
			r = err_oom(err);
	}
	if (r < 0) {
		http_free(h);
		return r;
	}
	*ret_http = h;
	return 0;
}

struct http *http_free(struct http *h)
{
	if (h) {
		curl_easy_cleanup(h->easy);
		curl_multi_cleanup(h->multi);
		free(h);
	}
	return NULL;
}

void http_response_done(struct http_response *r)
{
	auth_challenge_done(&r->challenge);
	free(r->redirect);
	buf_done(&r->body);
	memset(r, 0, sizeof(*r));
}

static int get_part(CURLU *u, CURLUPart part, char *out, size_t room)
{
	char *s = NULL;

	if (curl_url_get(u, part, &s, CURLU_DEFAULT_PORT) != CURLUE_OK)
		return -EINVAL;
	snprintf(out, room, "%s", s);
	curl_free(s);
	return 0;
}

static int origin_of(const char *url, char *out, size_t room)
{
	CURLU *u = curl_url();
	char scheme[16], host[256], port[16];
	int r = -EINVAL;

	if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
	    get_part(u, CURLUPART_SCHEME, scheme, 16) == 0 && get_part(u, CURLUPART_HOST, host, 256) == 0 &&
	    get_part(u, CURLUPART_PORT, port, 16) == 0) {
		snprintf(out, room, "%s://%s:%s", scheme, host, port);
		r = 0;
	}
	curl_url_cleanup(u);
	return r;
}

bool http_same_origin(const char *a, const char *b)
{
	char oa[320], ob[320];

	return origin_of(a, oa, sizeof(oa)) == 0 && origin_of(b, ob, sizeof(ob)) == 0 &&
	       strcasecmp(oa, ob) == 0;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	const struct http *h = arg;

	(void)a;
	(void)b;
	(void)c;
	(void)d;
	return call_check(h->call, NULL) < 0;
}

/* "bytes 100-199/200" */
static void parse_content_range(const char *v, struct http_response *resp)
{
	unsigned long long start;

	if (sscanf(v, "bytes %20llu-", &start) == 1) {
		resp->range_ok = true;
		resp->range_start = start;
	}
}

static void take_header(struct http_response *resp, const char *name, const char *value)
{
	if (strcasecmp(name, "content-type") == 0)
		snprintf(resp->content_type, sizeof(resp->content_type), "%s", value);
	else if (strcasecmp(name, "www-authenticate") == 0)
		(void)auth_challenge_parse(value, &resp->challenge);
	else if (strcasecmp(name, "content-range") == 0)
		parse_content_range(value, resp);
	else if (strcasecmp(name, "retry-after") == 0) {
		uint64_t s;

		if (parse_u64(value, &s) == 0)
			resp->retry_after_s = s > RETRY_AFTER_S ? RETRY_AFTER_S : (long)s;
	}
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * n;
	char *copy = strndup(line, len);
	char *value;

	if (!copy)
		return 0;
	copy[strcspn(copy, "\r\n")] = 0;
	value = strchr(copy, ':');
	if (strncmp(copy, "HTTP/", 5) == 0) {
		/* A new answer begins (after a 100 Continue): forget the former's headers. */
		auth_challenge_done(&x->resp->challenge);
		x->resp->range_ok = false;
	} else if (value) {
		*value++ = 0;
		while (*value == ' ' || *value == '\t')
			value++;
		take_header(x->resp, copy, value);
	}
	free(copy);
	return len;
}

static int begin_body(struct exchange *x, long status)
{
	uint64_t offset = 0;

	x->begun = true;
	if (status == 206) {
		if (!x->resp->range_ok || x->resp->range_start != x->req->range_from) {
			x->resp->fault = HTTP_FAULT_ANSWER;
			return err_set_status(
				x->err, -EBADMSG, ERR_DATA_LOSS,
				"the registry answered with another range than the one requested");
		}
		offset = x->resp->range_start;
	}
	x->failed = x->req->begin(x->req->arg, offset, x->err);
	return x->failed;
}

static int keep_body(struct exchange *x, long status, const char *data, size_t len)
{
	bool good = status >= 200 && status < 300;
	size_t max = good ? x->req->max_bytes : ERROR_BODY;

	if (x->resp->body.len + len > max) {
		if (!good) /* an error page: its beginning is enough */
			return 0;
		x->resp->fault = HTTP_FAULT_ANSWER;
		return err_set_status(x->err, -EFBIG, ERR_DATA_LOSS, "the registry sends more than %zu bytes",
				      max);
	}
	if (buf_put(&x->resp->body, data, len) < 0) {
		x->resp->fault = HTTP_FAULT_SINK;
		return err_oom(x->err);
	}
	return 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * n;
	long status = 0;

	curl_easy_getinfo(x->http->easy, CURLINFO_RESPONSE_CODE, &status);
	if (!x->req->data || (status != 200 && status != 206))
		return keep_body(x, status, data, len) < 0 ? 0 : len;
	if (!x->begun && begin_body(x, status) < 0)
		return 0;
	x->failed = x->req->data(x->req->arg, data, len, x->err);
	return x->failed < 0 ? 0 : len;
}

/* ---- set-up -------------------------------------------------------------------------------------------- */

/*
 * curl takes one set of authorities: the configured files together; the system's stay through its CA
 * directory.
 */
static int set_authorities(CURL *easy, const struct registry_host *host, struct err *err)
{
	struct buf all = {.max = CA_FILE_MAX};
	struct curl_blob blob;
	int r = 0;

	if (strv_len(host->ca) == 0)
		return 0;
	for (char **p = host->ca; *p && r == 0; p++) {
		char *text CLEANUP_FREE = NULL;
		size_t len = 0;

		r = read_file(*p, CA_FILE_MAX, &text, &len);
		if (r < 0)
			r = err_set_status(err, r, ERR_FAILED_PRECONDITION, "certificate file %s: %s", *p,
					   strerror(-r));
		else if (buf_put(&all, text, len) < 0 || buf_put(&all, "\n", 1) < 0)
			r = err_oom(err);
	}
	if (r == 0) {
		blob = (struct curl_blob){.data = buf_data(&all), .len = all.len, .flags = CURL_BLOB_COPY};
		if (curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob) != CURLE_OK)
			r = err_oom(err);
	}
	buf_done(&all);
	return r;
}

static int set_tls(CURL *easy, const struct http_request *req, struct err *err)
{
	const struct registry_host *host = req->tls;

	if (!host)
		return 0;
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, host->connect_timeout_ms);
	if (host->skip_verify) {
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (host->client_cert && req->same_origin) {
		curl_easy_setopt(easy, CURLOPT_SSLCERT, host->client_cert);
		curl_easy_setopt(easy, CURLOPT_SSLKEY, host->client_key);
	}
	return set_authorities(easy, host, err);
}

static bool append(struct curl_slist **list, const char *line)
{
	struct curl_slist *grown = line ? curl_slist_append(*list, line) : NULL;

	if (grown)
		*list = grown;
	return grown != NULL;
}

static bool append_header(struct curl_slist **list, const char *name, const char *value)
{
	char *line = xasprintf("%s: %s", name, value);
	bool ok = append(list, line);

	image_secret_free(line);
	return ok;
}

static int make_headers(const struct http_request *req, struct curl_slist **list, struct err *err)
{
	bool ok = true, has_auth = false;

	if (req->same_origin && req->tls) {
		for (char **p = req->tls->headers; p && *p; p++) {
			has_auth = has_auth || strncasecmp(*p, "authorization:", 14) == 0;
			ok = ok && append(list, *p);
		}
	}
	if (req->accept)
		ok = ok && append_header(list, "Accept", req->accept);
	if (req->authorization && !has_auth)
		ok = ok && append_header(list, "Authorization", req->authorization);
	return ok ? 0 : err_oom(err);
}

static void wipe_headers(struct curl_slist *list)
{
	for (struct curl_slist *p = list; p; p = p->next)
		explicit_bzero(p->data, strlen(p->data));
	curl_slist_free_all(list);
}

static void set_common(struct http *h, struct exchange *x)
{
	CURL *e = h->easy;
	char agent[64];

	curl_easy_reset(e);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	snprintf(agent, sizeof(agent), "crivisor/%s", crv_version);
	curl_easy_setopt(e, CURLOPT_USERAGENT, agent); /* copied */
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, h->error);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 131072L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	/* A name that is being looked up when the call ends is left to its thread. */
	curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(e, CURLOPT_XFERINFODATA, h);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, SLOW_BYTES);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, x->req->stall_s > 0 ? x->req->stall_s : STALL_S);
}

static enum http_fault fault_of(CURLcode code, const struct exchange *x)
{
	if (x->resp->fault != HTTP_FAULT_NONE)
		return x->resp->fault;
	switch (code) {
	case CURLE_ABORTED_BY_CALLBACK:
		return HTTP_FAULT_STOPPED;
	case CURLE_WRITE_ERROR:
		return HTTP_FAULT_SINK;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_CONNECT:
		return HTTP_FAULT_UNREACHABLE;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_ISSUER_ERROR:
		return HTTP_FAULT_TLS;
	case CURLE_OPERATION_TIMEDOUT: {
		double connected = 0;
		long status = 0;

		/* Of a connection that was used before there is no time. */
		curl_easy_getinfo(x->http->easy, CURLINFO_CONNECT_TIME, &connected);
		curl_easy_getinfo(x->http->easy, CURLINFO_RESPONSE_CODE, &status);
		return connected > 0 || status > 0 ? HTTP_FAULT_BROKEN : HTTP_FAULT_UNREACHABLE;
	}
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_URL_MALFORMAT:
	case CURLE_WEIRD_SERVER_REPLY:
		return HTTP_FAULT_ANSWER;
	default:
		return HTTP_FAULT_BROKEN;
	}
}

static int say_failure(struct http *h, CURLcode code, struct http_response *resp, struct err *err)
{
	const char *words = h->error[0] ? h->error : curl_easy_strerror(code);

	if (resp->fault == HTTP_FAULT_STOPPED)
		return call_check(h->call, err);
	resp->no_tls = code == CURLE_SSL_CONNECT_ERROR;
	if (resp->fault == HTTP_FAULT_ANSWER)
		return err_set_status(err, -EBADMSG, ERR_UNAVAILABLE, "%s", words);
	return err_set_status(err, -EHOSTUNREACH, ERR_UNAVAILABLE, "%s", words);
}

/* As curl_easy_perform, but ends at once when the call does. */
static CURLcode perform(struct http *h)
{
	struct curl_waitfd end = {.fd = h->end_fd, .events = CURL_WAIT_POLLIN};
	CURLMcode code = curl_multi_add_handle(h->multi, h->easy);
	CURLcode result = CURLE_ABORTED_BY_CALLBACK;
	int running = 1, left;

	while (code == CURLM_OK && running > 0 && call_check(h->call, NULL) == 0) {
		code = curl_multi_perform(h->multi, &running);
		if (code == CURLM_OK && running > 0)
			code = curl_multi_poll(h->multi, &end, h->end_fd >= 0, POLL_MS, NULL);
	}
	if (code != CURLM_OK) {
		snprintf(h->error, sizeof(h->error), "%s", curl_multi_strerror(code));
		result = CURLE_OUT_OF_MEMORY;
	}
	for (const CURLMsg *m; (m = curl_multi_info_read(h->multi, &left));)
		if (m->msg == CURLMSG_DONE)
			result = m->data.result;
	curl_multi_remove_handle(h->multi, h->easy);
	return result;
}

int http_do(struct http *h, const struct http_request *req, struct http_response *ret_response,
	    struct err *err)
{
	struct exchange x = {.http = h, .req = req, .resp = ret_response, .err = err};
	struct err own = ERR_INIT;
	struct curl_slist *headers = NULL;
	char range[32];
	CURLcode code;
	char *to;
	int r;

	memset(ret_response, 0, sizeof(*ret_response));
	if (!err)
		x.err = err = &own;
	h->error[0] = 0;
	set_common(h, &x);
	r = set_tls(h->easy, req, err);
	if (r == 0)
		r = make_headers(req, &headers, err);
	if (r < 0) {
		ret_response->fault = HTTP_FAULT_SINK;
		wipe_headers(headers);
		return r;
	}
	curl_easy_setopt(h->easy, CURLOPT_URL, req->url);
	curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, headers);
	if (req->form)
		curl_easy_setopt(h->easy, CURLOPT_COPYPOSTFIELDS, req->form);
	if (!req->bulk)
		curl_easy_setopt(h->easy, CURLOPT_TIMEOUT, SMALL_TIME_S);
	if (req->range_from > 0) {
		snprintf(range, sizeof(range), "%llu-", (unsigned long long)req->range_from);
		curl_easy_setopt(h->easy, CURLOPT_RANGE, range);
	}
	code = perform(h);
	curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &ret_response->status);
	if (curl_easy_getinfo(h->easy, CURLINFO_REDIRECT_URL, &to) == CURLE_OK && to)
		ret_response->redirect = strdup(to);
	if (code != CURLE_OK)
		ret_response->fault = fault_of(code, &x); /* before curl forgets */
	curl_easy_reset(h->easy);
	wipe_headers(headers);
	if (code == CURLE_OK)
		return 0;
	if (code == CURLE_WRITE_ERROR)
		return err->code < 0 ? err->code : err_set(err, -EIO, "writing failed");
	return say_failure(h, code, ret_response, err);
}
