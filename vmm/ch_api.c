/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ch_internal.h"

#include "base/text.h"
#include "base/util.h"
#include "vmm/wait_internal.h"

#include <curl/curl.h>

#define ROOT	   "http://localhost/api/v1/"
#define JSON_DEPTH 64

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
	curl_global_init(CURL_GLOBAL_NOTHING);
}

static size_t take_body(char *data, size_t size, size_t n, void *arg)
{
	struct buf *in = arg;

	return buf_put(in, data, size * n) == 0 ? size * n : 0;
}

void ch_error_words(const char *body, size_t len, char *out, size_t size)
{
	struct json_tokener *t = json_tokener_new_ex(8);
	struct json_object *o = t && len < INT32_MAX ? json_tokener_parse_ex(t, body, (int)len) : NULL;
	size_t at = 0;

	out[0] = 0;
	if (o && json_object_is_type(o, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(o) && at < size; i++) {
			const char *s = json_object_get_string(json_object_array_get_idx(o, i));
			int n = snprintf(out + at, size - at, "%s%s", i ? ": " : "", s ? s : "null");

			at += n > 0 ? (size_t)n : 0;
		}
	} else if (o && json_object_is_type(o, json_type_string)) {
		snprintf(out, size, "%s", json_object_get_string(o));
	} else {
		snprintf(out, size, "%.*s", len < size ? (int)len : (int)size - 1, body);
	}
	text_clean(out);
	json_object_put(o);
	if (t)
		json_tokener_free(t);
}

static int status_error(long status, const struct buf *in, struct err *err)
{
	char words[700];
	int code = status == 404 ? -ENOENT : status == 429 ? -EBUSY : status == 400 ? -EINVAL : -EREMOTEIO;

	ch_error_words(in->len ? (const char *)buf_data(in) : "", in->len, words, sizeof(words));
	return err_set_status(err, code, code == -EBUSY ? ERR_UNAVAILABLE : ERR_INTERNAL,
			      "cloud-hypervisor answered %ld: %s", status, words[0] ? words : "(no words)");
}

static int parse_reply(const struct buf *in, struct json_object **ret, struct err *err)
{
	struct json_tokener *t;
	struct json_object *o;

	if (in->len == 0)
		return 0;
	t = json_tokener_new_ex(JSON_DEPTH);
	if (!t)
		return err_oom(err);
	o = json_tokener_parse_ex(t, (const char *)buf_data(in), (int)in->len);
	json_tokener_free(t);
	if (!o)
		return err_set(err, -EPROTO, "malformed reply from cloud-hypervisor: %.60s",
			       (const char *)buf_data(in));
	*ret = o;
	return 0;
}

/* Runs the transfer until it is complete, the deadline has passed or one of the fds is readable. */
static int perform(CURLM *multi, const struct ch_request *rq, int64_t deadline_ns, CURLcode *ret_code,
		   struct err *err)
{
	for (;;) {
		struct curl_waitfd extra[2];
		unsigned n = 0;
		int running = 0, left, in_queue;
		int64_t ns;
		CURLMsg *msg;

		if (curl_multi_perform(multi, &running) != CURLM_OK)
			return err_set(err, -EIO, "libcurl failed");
		msg = curl_multi_info_read(multi, &in_queue);
		if (msg && msg->msg == CURLMSG_DONE) {
			*ret_code = msg->data.result;
			return 0;
		}
		if (rq->stop_fd >= 0)
			extra[n++] = (struct curl_waitfd){.fd = rq->stop_fd, .events = CURL_WAIT_POLLIN};
		if (rq->pid_fd >= 0)
			extra[n++] = (struct curl_waitfd){.fd = rq->pid_fd, .events = CURL_WAIT_POLLIN};
		if (wait_fd(rq->stop_fd, POLLIN, 0) > 0)
			return err_set(err, -ECANCELED, "the VM is being stopped");
		if (wait_fd(rq->pid_fd, POLLIN, 0) > 0)
			return err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "the VMM has exited");
		ns = deadline_ns - now_monotonic_ns();
		if (ns <= 0)
			return err_set_errno(err, -ETIMEDOUT, "no reply from cloud-hypervisor");
		left = ns > INT32_MAX * NS_PER_MS ? INT32_MAX : (int)(ns / NS_PER_MS) + 1;
		if (curl_multi_poll(multi, extra, n, left, NULL) != CURLM_OK)
			return err_set(err, -EIO, "libcurl failed");
	}
}

static int finish(CURL *easy, CURLcode code, const struct buf *in, struct json_object **ret_reply,
		  struct err *err)
{
	long status = 0;

	if (code != CURLE_OK)
		return err_set_status(err, code == CURLE_WRITE_ERROR ? -EPROTO : -ENOTCONN, ERR_UNAVAILABLE,
				      "cloud-hypervisor's API: %s", curl_easy_strerror(code));
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200 && status != 204)
		return status_error(status, in, err);
	return ret_reply && status == 200 ? parse_reply(in, ret_reply, err) : 0;
}

static int run(CURL *easy, const struct ch_request *rq, int64_t deadline_ns, struct json_object **ret_reply,
	       struct err *err)
{
	struct buf in = {.max = CH_REPLY_MAX};
	struct curl_slist *headers = NULL;
	CURLM *multi = curl_multi_init();
	CURLcode code = CURLE_OK;
	char url[128];
	int r;

	snprintf(url, sizeof(url), ROOT "%s", rq->endpoint);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Expect:");
	if (!multi || !headers) {
		curl_slist_free_all(headers);
		if (multi)
			curl_multi_cleanup(multi);
		return err_oom(err);
	}
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, rq->socket);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, rq->method);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, &in);
	if (rq->body || str_eq(rq->method, "PUT")) {
		const char *text =
			rq->body ? json_object_to_json_string_ext(rq->body, JSON_C_TO_STRING_PLAIN) : "";

		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)strlen(text));
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, text);
	}
	curl_multi_add_handle(multi, easy);
	r = perform(multi, rq, deadline_ns, &code, err);
	if (r == 0)
		r = finish(easy, code, &in, ret_reply, err);
	curl_multi_remove_handle(multi, easy);
	curl_multi_cleanup(multi);
	curl_slist_free_all(headers);
	buf_done(&in);
	return r;
}

int ch_request(const struct ch_request *rq, int64_t deadline_ns, struct json_object **ret_reply,
	       struct err *err)
{
	struct json_object *reply = NULL;
	CURL *easy;
	int r;

	pthread_once(&curl_once, init_curl);
	easy = curl_easy_init();
	if (!easy)
		return err_oom(err);
	r = run(easy, rq, deadline_ns, &reply, err);
	curl_easy_cleanup(easy);
	if (r == 0 && ret_reply)
		*ret_reply = reply;
	else
		json_object_put(reply);
	return r;
}

int ch_call(struct vm *vm, const char *method, const char *endpoint, struct json_object *body,
	    int64_t deadline_ns, struct json_object **ret_reply, struct err *err)
{
	char path[256];
	struct ch_request rq = {.socket = path,
				.method = method,
				.endpoint = endpoint,
				.body = body,
				.stop_fd = vm->stop_fd,
				.pid_fd = vm->procs[VM_ROLE_VMM].pidfd};
	struct sockaddr_un a;
	int r = vm_path(vm, VM_FILE_API, path, sizeof(path), err);
	int target CLEANUP_CLOSE = r == 0 ? sock_target(path, &a) : -1;

	if (target >= 0)
		rq.socket = a.sun_path;
	if (r == 0)
		r = vm_check_alive(vm, err);
	if (r == 0 && target == -ENOTSOCK)
		r = err_set_errno(err, target, "cloud-hypervisor's API %s", path);
	if (r == 0) {
		r = ch_request(&rq, deadline_ns, ret_reply, err);
		if (r == -ENOTCONN) {
			char words[ERR_MSG_MAX];

			snprintf(words, sizeof(words), "%s", err ? err->msg : "");
			r = vm_lost(vm, words, err);
		}
	}
	json_object_put(body);
	return r < 0 ? err_wrap(err, "%s", endpoint) : 0;
}
