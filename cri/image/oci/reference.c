/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/oci/reference.h"

#include "base/util.h"

#include <ctype.h>

#define NAME_MAX_BYTES 255
#define TAG_MAX_BYTES  128
#define TEXT_MAX_BYTES 1024

static bool lower_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool alnum(char c)
{
	return lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

bool image_digest_valid(const char *digest)
{
	if (!digest || strncmp(digest, "sha256:", 7) != 0 || strlen(digest) != IMAGE_DIGEST_LEN)
		return false;
	return strspn(digest + 7, "0123456789abcdef") == 64;
}

const char *image_ref_default_host(const char *domain)
{
	return str_eq(domain, "docker.io") ? "registry-1.docker.io" : domain;
}

bool image_host_is_loopback(const char *host)
{
	size_t len;

	if (host[0] == '[')
		return str_starts(host, "[::1]") && (host[5] == 0 || host[5] == ':');
	len = strcspn(host, ":");
	if (len == 9 && strncasecmp(host, "localhost", 9) == 0)
		return true;
	if (len < 7 || strncmp(host, "127.", 4) != 0)
		return false;
	return strspn(host, "0123456789.") == len;
}

/* Component: [a-z0-9]+ joined by one of ".", "_", "__" or any number of "-". */
static bool component_valid(const char *s, size_t len)
{
	size_t i = 0;

	for (;;) {
		size_t start = i;

		while (i < len && lower_alnum(s[i]))
			i++;
		if (i == start)
			return false;
		if (i == len)
			return true;
		if (s[i] == '.') {
			i++;
		} else if (s[i] == '_') {
			i++;
			if (i < len && s[i] == '_')
				i++;
		} else if (s[i] == '-') {
			while (i < len && s[i] == '-')
				i++;
		} else {
			return false;
		}
	}
}

static bool path_valid(const char *path)
{
	for (const char *p = path;;) {
		size_t len = strcspn(p, "/");

		if (!component_valid(p, len))
			return false;
		if (!p[len])
			return true;
		p += len + 1;
	}
}

static bool port_valid(const char *p)
{
	size_t len = strspn(p, "0123456789");

	return len > 0 && len <= 5 && !p[len];
}

static bool domain_valid(const char *domain)
{
	const char *p = domain;

	if (*p == '[') {
		size_t len = strspn(p + 1, "0123456789abcdefABCDEF:.");

		if (len == 0 || p[1 + len] != ']')
			return false;
		p += len + 2;
		return !*p || (*p == ':' && port_valid(p + 1));
	}
	for (;;) {
		size_t len = 0;

		while (alnum(p[len]) || p[len] == '-')
			len++;
		if (len == 0 || p[0] == '-' || p[len - 1] == '-')
			return false;
		p += len;
		if (*p != '.')
			break;
		p++;
	}
	return !*p || (*p == ':' && port_valid(p + 1));
}

static bool tag_valid(const char *tag)
{
	size_t len = 0;

	if (!alnum(tag[0]) && tag[0] != '_')
		return false;
	while (alnum(tag[len]) || tag[len] == '_' || tag[len] == '.' || tag[len] == '-')
		len++;
	return !tag[len] && len <= TAG_MAX_BYTES;
}

void image_ref_done(struct image_ref *ref)
{
	free(ref->name);
	free(ref->domain);
	free(ref->path);
	free(ref->tag);
	free(ref->digest);
	memset(ref, 0, sizeof(*ref));
}

static int check_text(const char *text, struct err *err)
{
	if (str_empty(text))
		return err_set(err, -EINVAL, "image reference is empty");
	if (strlen(text) > TEXT_MAX_BYTES)
		return err_set(err, -EINVAL, "image reference is longer than %d bytes: \"%.64s…\"",
			       TEXT_MAX_BYTES, utf8_valid(text, 64) ? text : "");
	for (const char *p = text; *p; p++) {
		if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f)
			return err_set(err, -EINVAL, "image reference holds the byte 0x%02x at offset %zu",
				       (unsigned)(unsigned char)*p, (size_t)(p - text));
	}
	return 0;
}

/* Cuts "@digest" and ":tag" off work. */
static int split_suffixes(const char *text, char *work, struct image_ref *ref, struct err *err)
{
	char *at = strchr(work, '@'), *colon, *slash;

	if (at) {
		*at++ = 0;
		if (!image_digest_valid(at))
			return err_set(err, -EINVAL,
				       "image reference \"%s\": digest \"%s\" is not sha256: and 64 "
				       "lower-case hex digits",
				       text, at);
		if (str_set(&ref->digest, at) < 0)
			return err_oom(err);
	}
	slash = strrchr(work, '/');
	colon = strrchr(work, ':');
	/* "host:5000/name" has its colon before the slash; "[::1]:5000/name" too. */
	if (colon && (!slash || colon > slash)) {
		*colon++ = 0;
		if (!tag_valid(colon))
			return err_set(
				err, -EINVAL,
				"image reference \"%s\": tag \"%s\" is not [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
				text, colon);
		if (str_set(&ref->tag, colon) < 0)
			return err_oom(err);
	}
	return 0;
}

static bool is_domain(const char *first, size_t len)
{
	if (len == 9 && strncmp(first, "localhost", 9) == 0)
		return true;
	for (size_t i = 0; i < len; i++) {
		if (first[i] == '.' || first[i] == ':' || first[i] == '[' || isupper((unsigned char)first[i]))
			return true;
	}
	return false;
}

static int split_name(const char *text, const char *work, struct image_ref *ref, struct err *err)
{
	const char *slash = strchr(work, '/');
	const char *rest = work;

	if (slash && is_domain(work, (size_t)(slash - work))) {
		ref->domain = strndup(work, (size_t)(slash - work));
		rest = slash + 1;
	} else {
		ref->domain = strdup("docker.io");
	}
	if (!ref->domain)
		return err_oom(err);
	if (!domain_valid(ref->domain))
		return err_set(err, -EINVAL, "image reference \"%s\": \"%s\" is not a registry host", text,
			       ref->domain);
	if (str_eq(ref->domain, "index.docker.io") && str_set(&ref->domain, "docker.io") < 0)
		return err_oom(err);
	if (!*rest)
		return err_set(err, -EINVAL, "image reference \"%s\" has no name", text);
	if (str_eq(ref->domain, "docker.io") && !strchr(rest, '/'))
		ref->path = xasprintf("library/%s", rest);
	else
		ref->path = strdup(rest);
	if (!ref->path)
		return err_oom(err);
	if (!path_valid(ref->path)) {
		for (const char *p = rest; *p; p++) {
			if (isupper((unsigned char)*p))
				return err_set(err, -EINVAL,
					       "image reference \"%s\": the name \"%s\" must be lower case",
					       text, rest);
		}
		return err_set(err, -EINVAL,
			       "image reference \"%s\": the name \"%s\" is not made of [a-z0-9] parts joined "
			       "by . _ __ - and /",
			       text, rest);
	}
	ref->name = xasprintf("%s/%s", ref->domain, ref->path);
	if (!ref->name)
		return err_oom(err);
	if (strlen(ref->name) > NAME_MAX_BYTES)
		return err_set(err, -EINVAL, "image reference \"%.64s…\": the name is longer than %d bytes",
			       text, NAME_MAX_BYTES);
	return 0;
}

int image_ref_parse(const char *text, struct image_ref *ret_ref, struct err *err)
{
	struct image_ref ref = {0};
	char *work CLEANUP_FREE = NULL;
	int r = check_text(text, err);

	if (r < 0)
		return r;
	if (strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64)
		return err_set(err, -EINVAL, "image reference \"%s\" is an id, not a name", text);
	work = strdup(text);
	if (!work)
		return err_oom(err);
	r = split_suffixes(text, work, &ref, err);
	if (r == 0)
		r = split_name(text, work, &ref, err);
	if (r == 0 && !ref.tag && !ref.digest && str_set(&ref.tag, "latest") < 0)
		r = err_oom(err);
	if (r < 0) {
		image_ref_done(&ref);
		return r;
	}
	*ret_ref = ref;
	return 0;
}
