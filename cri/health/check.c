/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/health/check.h"

#include "base/text.h"
#include "base/util.h"
#include "base/version.h"

#include <assert.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdarg.h>

static const char *const words[] = {[CHECK_OK] = "ok", [CHECK_NOTE] = "note", [CHECK_MISSING] = "missing"};

/* ---- records ------------------------------------------------------------------------------------------- */

static bool add(struct check *check, struct check_finding finding)
{
	struct check_finding *more = NULL;

	if (finding.id && finding.message && (finding.fix || finding.status == CHECK_OK))
		more = reallocarray(check->findings, check->n + 1, sizeof(*more));
	if (!more)
		return false;
	/* Programs' and files' own words are in there: neither a terminal nor JSON may be led astray by them.
	 */
	text_clean(finding.id);
	text_clean(finding.message);
	if (finding.fix)
		text_clean(finding.fix);
	check->findings = more;
	more[check->n++] = finding;
	return true;
}

void check_add(struct check *check, const char *id, enum check_status status, const char *fix,
	       const char *fmt, ...)
{
	struct check_finding f = {.id = strdup(id), .status = status, .fix = fix ? strdup(fix) : NULL};
	va_list ap;

	assert((status == CHECK_OK) == !fix);
	va_start(ap, fmt);
	if (vasprintf(&f.message, fmt, ap) < 0)
		f.message = NULL;
	va_end(ap);
	if (add(check, f))
		return;
	free(f.id);
	free(f.message);
	free(f.fix);
	check->oom = true;
}

size_t check_missing(const struct check *check)
{
	size_t n = 0;

	for (size_t i = 0; i < check->n; i++)
		n += check->findings[i].status == CHECK_MISSING;
	return n;
}

void check_done(struct check *check)
{
	for (size_t i = 0; i < check->n; i++) {
		free(check->findings[i].id);
		free(check->findings[i].message);
		free(check->findings[i].fix);
	}
	free(move_ptr(check->findings));
	check->n = 0;
}

/* ---- printing ------------------------------------------------------------------------------------------ */

int check_print_text(const struct check *check, FILE *out)
{
	size_t missing = check_missing(check);
	int width = 0;

	for (size_t i = 0; i < check->n; i++) {
		int len = (int)strlen(check->findings[i].id);

		width = len > width ? len : width;
	}
	for (size_t i = 0; i < check->n; i++) {
		const struct check_finding *f = &check->findings[i];
		const char *word = f->status == CHECK_MISSING ? "MISSING" : words[f->status];

		fprintf(out, "%-8s %-*s  %s\n", word, width, f->id, f->message);
		if (f->fix)
			fprintf(out, "%-8s %-*s  to fix: %s\n", "", width, "", f->fix);
	}
	if (missing)
		fprintf(out, "%zu missing: pods cannot run here yet\n", missing);
	else
		fputs("pods can run here\n", out);
	return ferror(out) ? -EIO : 0;
}

static bool put(struct json_object *object, const char *key, struct json_object *value)
{
	if (value && json_object_object_add(object, key, value) == 0)
		return true;
	json_object_put(value);
	return false;
}

static bool put_finding(struct json_object *array, const struct check_finding *f)
{
	struct json_object *o = json_object_new_object();
	bool ok = o && put(o, "id", json_object_new_string(f->id)) &&
		  put(o, "status", json_object_new_string(words[f->status])) &&
		  put(o, "message", json_object_new_string(f->message)) &&
		  (f->fix ? put(o, "fix", json_object_new_string(f->fix))
			  : json_object_object_add(o, "fix", NULL) == 0) &&
		  json_object_array_add(array, o) == 0;

	if (!ok)
		json_object_put(o);
	return ok;
}

int check_print_json(const struct check *check, FILE *out)
{
	struct json_object *o = json_object_new_object(), *array = json_object_new_array();
	size_t missing = check_missing(check);
	const char *text = NULL;
	bool ok = array != NULL;
	int r = 0;

	for (size_t i = 0; ok && i < check->n; i++)
		ok = put_finding(array, &check->findings[i]);
	ok = ok && o && put(o, "version", json_object_new_string(crv_version)) &&
	     put(o, "ready", json_object_new_boolean(missing == 0)) &&
	     put(o, "missing", json_object_new_int64((int64_t)missing)) &&
	     put(o, "checks", json_object_get(array));
	if (ok)
		text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
								 JSON_C_TO_STRING_NOSLASHESCAPE);
	if (!text)
		r = -ENOMEM;
	else if (fputs(text, out) < 0 || fputc('\n', out) == EOF)
		r = -EIO;
	json_object_put(array);
	json_object_put(o);
	return r;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

int check_read(const struct check *check, const char *path, char **ret_text)
{
	char *full CLEANUP_FREE = xasprintf("%s%s", check->root, path);

	return full ? read_file(full, CHECK_FILE_MAX, ret_text, NULL) : -ENOMEM;
}

int check_read_number(const struct check *check, const char *path, uint64_t *ret_value)
{
	char *text CLEANUP_FREE = NULL;
	int r = check_read(check, path, &text);

	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = 0;
	return parse_u64(text, ret_value);
}

int check_open(const struct check *check, const char *path)
{
	char *full CLEANUP_FREE = xasprintf("%s%s", check->root, path);
	int fd = full ? open(full, O_RDWR | O_CLOEXEC | O_NONBLOCK) : -1;
	int r = fd < 0 ? (full ? -errno : -ENOMEM) : 0;

	close_fd(fd);
	return r;
}
