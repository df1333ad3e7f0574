/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/registry/auth.h"

#include "base/text.h"
#include "base/util.h"

#include <json-c/json.h>
#include <openssl/evp.h>

#define HEADER_MAX_BYTES 8192
#define PARAM_MAX_BYTES	 2048
#define TOKEN_MAX_BYTES	 65536

char *image_secret_free(char *secret)
{
	if (secret) {
		explicit_bzero(secret, strlen(secret));
		free(secret);
	}
	return NULL;
}

void auth_challenge_done(struct auth_challenge *c)
{
	free(c->realm);
	free(c->service);
	free(c->scope);
	memset(c, 0, sizeof(*c));
}

static bool is_token_char(char c)
{
	return c && (strchr("!#$%&'*+-.^_`|~", c) || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
		     (c >= 'A' && c <= 'Z'));
}

static const char *skip_blank(const char *p)
{
	while (*p == ' ' || *p == '\t')
		p++;
	return p;
}

static const char *read_token(const char *p, char *out, size_t room)
{
	size_t len = 0;

	while (is_token_char(p[len]))
		len++;
	snprintf(out, room, "%.*s", (int)(len < room ? len : 0), p);
	return p + len;
}

/* A token or a quoted string with backslash escapes; NULL if it never ends. */
static const char *read_value(const char *p, char *out, size_t room)
{
	size_t n = 0;

	if (*p != '"')
		return read_token(p, out, room);
	for (p++; *p != '"'; p++) {
		if (*p == '\\')
			p++;
		if (!*p)
			return NULL;
		if (n + 1 < room)
			out[n++] = *p;
	}
	out[n] = 0;
	return p + 1;
}

static int set_param(struct auth_challenge *c, const char *name, const char *value)
{
	if (!text_is_line(value))
		return 0;
	if (strcasecmp(name, "realm") == 0)
		return str_set(&c->realm, value);
	if (strcasecmp(name, "service") == 0)
		return str_set(&c->service, value);
	if (strcasecmp(name, "scope") == 0)
		return str_set(&c->scope, value);
	return 0;
}

/*
 * Parameters up to the next scheme: "name=value" joined by commas. Returns where it stopped; NULL at a fault.
 */
static const char *read_params(const char *p, struct auth_challenge *c, int *r)
{
	char name[64], value[PARAM_MAX_BYTES];

	for (;;) {
		const char *start, *after;

		while (*p == ',' || *p == ' ' || *p == '\t')
			p++;
		start = p;
		p = read_token(p, name, sizeof(name));
		after = skip_blank(p);
		if (p == start || *after != '=')
			return *start ? start : NULL;
		after = skip_blank(after + 1);
		if (*after == '=' || *after == ',' ||
		    !*after) { /* another scheme's token68 and its padding */
			p = after + strspn(after, "=");
			continue;
		}
		p = read_value(after, value, sizeof(value));
		if (!p)
			return NULL;
		*r = set_param(c, name, value);
		if (*r < 0)
			return NULL;
	}
}

static bool better(const struct auth_challenge *found, const struct auth_challenge *held)
{
	if (found->scheme == AUTH_BEARER && !found->realm)
		return false;
	return found->scheme > held->scheme;
}

int auth_challenge_parse(const char *header, struct auth_challenge *challenge)
{
	const char *p = header;
	int r = 0;

	if (strlen(header) > HEADER_MAX_BYTES)
		return 0;
	while (p && *p && r == 0) {
		struct auth_challenge found = {0};
		char scheme[64];
		const char *start;

		while (*p == ',' || *p == ' ' || *p == '\t')
			p++;
		start = p;
		p = read_token(p, scheme, sizeof(scheme));
		if (p == start)
			break;
		if (strcasecmp(scheme, "bearer") == 0)
			found.scheme = AUTH_BEARER;
		else if (strcasecmp(scheme, "basic") == 0)
			found.scheme = AUTH_BASIC;
		p = read_params(p, &found, &r);
		if (r == 0 && better(&found, challenge)) {
			auth_challenge_done(challenge);
			*challenge = found;
		} else {
			auth_challenge_done(&found);
		}
		if (p == start)
			break;
	}
	return r;
}

char *auth_basic_header(const char *username, const char *password)
{
	char *plain = xasprintf("%s:%s", username ? username : "", password ? password : "");
	size_t len = plain ? strlen(plain) : 0;
	char *header;

	if (!plain || len > TOKEN_MAX_BYTES)
		return image_secret_free(plain);
	header = malloc(6 + (len + 2) / 3 * 4 + 1);
	if (header) {
		memcpy(header, "Basic ", 6);
		EVP_EncodeBlock((unsigned char *)header + 6, (const unsigned char *)plain, (int)len);
	}
	image_secret_free(plain);
	return header;
}

char *auth_bearer_header(const char *token)
{
	size_t len = strlen(token);

	if (len > TOKEN_MAX_BYTES || !text_is_word(token))
		return NULL;
	return xasprintf("Bearer %s", token);
}

int auth_token_parse(const char *json, size_t len, char **ret_header, struct err *err)
{
	json_tokener *tok = json_tokener_new_ex(8);
	json_object *root = NULL, *v;
	int r = 0;

	if (!tok)
		return err_oom(err);
	if (len <= 4 * TOKEN_MAX_BYTES)
		root = json_tokener_parse_ex(tok, json, (int)len);
	json_tokener_free(tok);
	if (json_object_is_type(root, json_type_object) &&
	    ((json_object_object_get_ex(root, "token", &v) && json_object_is_type(v, json_type_string) &&
	      json_object_get_string_len(v) > 0) ||
	     (json_object_object_get_ex(root, "access_token", &v) &&
	      json_object_is_type(v, json_type_string)))) {
		char *header = auth_bearer_header(json_object_get_string(v));

		if (header)
			*ret_header = header;
		else
			r = err_set(err, -EBADMSG, "the token server's token is malformed");
	} else {
		r = err_set(err, -EBADMSG, "the token server's answer holds no token");
	}
	json_object_put(root);
	return r;
}
