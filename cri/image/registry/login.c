/* SPDX-License-Identifier: Apache-2.0 */
/* Whose credentials a registry gets, and how it is answered when it asks for them. */
#include "cri/image/registry/registry_internal.h"

#include "base/util.h"

#include <curl/curl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TOKEN_BODY_MAX (256u << 10)

/* The base64 of "username:password", as Docker's configuration has it. */
static int copy_basic(struct registry *reg, const char *basic)
{
	size_t len = strlen(basic), at;
	unsigned char *plain = malloc(len + 4);
	char *colon;
	int n = -1, r = 0;

	if (!plain)
		return -ENOMEM;
	if (len % 4 == 0 && len < INT_MAX)
		n = EVP_DecodeBlock(plain, (const unsigned char *)basic, (int)len);
	for (at = len; n > 0 && at > 0 && basic[at - 1] == '='; at--)
		n--;
	if (n > 0) {
		plain[n] = 0;
		colon = strchr((char *)plain, ':');
		if (colon) {
			*colon++ = 0;
			r = str_set(&reg->username, (char *)plain);
			r = r < 0 ? r : str_set(&reg->password, colon);
		}
		explicit_bzero(plain, len);
	}
	free(plain);
	return r;
}

int registry_copy_auth(struct registry *reg, const struct image_auth *auth)
{
	if (!auth)
		return 0;
	if (str_set(&reg->username, auth->username) < 0 || str_set(&reg->password, auth->password) < 0 ||
	    str_set(&reg->identity_token, auth->identity_token) < 0 ||
	    str_set(&reg->registry_token, auth->registry_token) < 0 ||
	    str_set(&reg->server_address, auth->server_address) < 0)
		return -ENOMEM;
	return str_empty(auth->username) && !str_empty(auth->auth) ? copy_basic(reg, auth->auth) : 0;
}

static const char *canonical(const char *host)
{
	if (str_eq(host, "index.docker.io") || str_eq(host, "registry-1.docker.io"))
		return "docker.io";
	return host;
}

/* "https://index.docker.io/v1/" names the host index.docker.io. */
static void host_of_address(const char *address, char *out, size_t room)
{
	const char *p = strstr(address, "://");

	p = p ? p + 3 : address;
	snprintf(out, room, "%.*s", (int)strcspn(p, "/"), p);
}

/* Credentials are for the registry that the reference names, or for the one that they name themselves. */
static bool credentials_apply(const struct registry *reg, const struct registry_host *host)
{
	char named[256];

	if (str_empty(reg->server_address))
		return host->is_registry;
	host_of_address(reg->server_address, named, sizeof(named));
	if (strcasecmp(canonical(named), canonical(host->host)) == 0)
		return true;
	return host->is_registry && strcasecmp(canonical(named), canonical(reg->opt.ref->domain)) == 0;
}

char *registry_auth_of(struct registry *reg, size_t host)
{
	char *copy;

	pthread_mutex_lock(&reg->lock);
	copy = reg->state[host].auth ? strdup(reg->state[host].auth) : NULL;
	pthread_mutex_unlock(&reg->lock);
	return copy;
}

static void auth_set(struct registry *reg, size_t host, const char *header)
{
	char *copy = strdup(header), *old;

	pthread_mutex_lock(&reg->lock);
	old = reg->state[host].auth;
	reg->state[host].auth = copy;
	pthread_mutex_unlock(&reg->lock);
	image_secret_free(old);
}

static char *make_query(const struct registry *reg, const struct auth_challenge *ch)
{
	char *want CLEANUP_FREE =
		ch->scope ? strdup(ch->scope) : xasprintf("repository:%s:pull", reg->opt.ref->path);
	char *service = curl_easy_escape(NULL, ch->service ? ch->service : "", 0);
	char *scope = want ? curl_easy_escape(NULL, want, 0) : NULL;
	char *query = service && scope ? xasprintf("service=%s&scope=%s", service, scope) : NULL;

	curl_free(service);
	curl_free(scope);
	return query;
}

static char *make_form(const struct registry *reg, const char *query)
{
	char *token = curl_easy_escape(NULL, reg->identity_token, 0);
	char *form = token ? xasprintf("grant_type=refresh_token&client_id=crivisor&refresh_token=%s&%s",
				       token, query)
			   : NULL;

	if (token)
		explicit_bzero(token, strlen(token));
	curl_free(token);
	return form;
}

static int check_realm(const char *realm, bool registry_tls, struct err *err)
{
	bool tls = strncasecmp(realm, "https://", 8) == 0;

	if ((!tls && strncasecmp(realm, "http://", 7) != 0) || strpbrk(realm, " \t#@"))
		return err_set_status(err, -EBADMSG, ERR_UNAUTHENTICATED,
				      "the registry's token server is not a URL: \"%.200s\"", realm);
	if (!tls && registry_tls)
		return err_set_status(err, -EBADMSG, ERR_UNAUTHENTICATED,
				      "the registry sends to a token server without TLS: \"%.200s\"", realm);
	return 0;
}

static int ask_token_server(struct registry_client *c, const struct registry_host *host,
			    const struct auth_challenge *ch, bool credentials, const char *query,
			    char **ret_header, struct err *err)
{
	const struct registry *reg = c->reg;
	bool refresh = credentials && !str_empty(reg->identity_token);
	char *form = refresh ? make_form(reg, query) : NULL;
	char *url = refresh ? strdup(ch->realm)
			    : xasprintf("%s%c%s", ch->realm, strchr(ch->realm, '?') ? '&' : '?', query);
	char *basic = credentials && !refresh && !str_empty(reg->username)
			      ? auth_basic_header(reg->username, reg->password)
			      : NULL;
	struct http_request req = {.url = url,
				   .tls = host,
				   .same_origin = false,
				   .authorization = basic,
				   .form = form,
				   .accept = "application/json",
				   .max_bytes = TOKEN_BODY_MAX};
	struct http_response resp = {0};
	int r;

	if (!url || (refresh && !form))
		r = err_oom(err);
	else
		r = http_do(c->http, &req, &resp, err);
	if (r == 0 && (resp.status == 401 || resp.status == 403))
		r = err_set_status(err, -EACCES, ERR_UNAUTHENTICATED, "the token server refuses %s",
				   basic || refresh ? "the credentials" : "anonymous access");
	else if (r == 0 && resp.status != 200)
		r = err_set_status(err, -EIO, ERR_UNAVAILABLE, "the token server answered HTTP %ld",
				   resp.status);
	else if (r == 0)
		r = auth_token_parse((const char *)buf_data(&resp.body), resp.body.len, ret_header, err);
	if (resp.body.len > 0)
		explicit_bzero(buf_data(&resp.body), resp.body.len);
	http_response_done(&resp);
	image_secret_free(form);
	image_secret_free(basic);
	free(url);
	return r;
}

static int fetch_token(struct registry_client *c, size_t i, const struct auth_challenge *ch,
		       char **ret_header, struct err *err)
{
	const struct registry *reg = c->reg;
	const struct registry_host *host = &reg->hosts.items[i];
	bool credentials = credentials_apply(reg, host);
	char *query CLEANUP_FREE = NULL;
	int r;

	if (credentials && !str_empty(reg->registry_token)) {
		*ret_header = auth_bearer_header(reg->registry_token);
		return *ret_header ? 0 : err_set(err, -EINVAL, "the registry token is malformed");
	}
	r = check_realm(ch->realm, str_starts(host->base, "https://") && !reg->state[i].http, err);
	if (r < 0)
		return r;
	query = make_query(reg, ch);
	if (!query)
		return err_oom(err);
	return ask_token_server(c, host, ch, credentials, query, ret_header, err);
}

int registry_answer_challenge(struct registry_client *c, size_t i, const struct auth_challenge *ch,
			      const char *used, bool fresh, struct err *err)
{
	const struct registry *reg = c->reg;
	const struct registry_host *host = &reg->hosts.items[i];
	char *header = registry_auth_of(c->reg, i);
	int r = 0;

	if (header && !str_eq(header, used)) { /* another thread was quicker */
		image_secret_free(header);
		return 0;
	}
	header = image_secret_free(header);
	if (used && (fresh || str_starts(used, "Basic ")))
		return err_set_status(err, -EACCES, ERR_UNAUTHENTICATED,
				      "authorization failed: %s refuses the credentials", host->host);
	if (ch->scheme == AUTH_BEARER) {
		r = fetch_token(c, i, ch, &header, err);
	} else if (ch->scheme == AUTH_BASIC && credentials_apply(reg, host) && !str_empty(reg->username)) {
		header = auth_basic_header(reg->username, reg->password);
		r = header ? 0 : err_oom(err);
	} else {
		r = err_set_status(err, -EACCES, ERR_UNAUTHENTICATED,
				   "authorization failed: %s asks for credentials", host->host);
	}
	if (r == 0)
		auth_set(c->reg, i, header);
	image_secret_free(header);
	return r;
}
