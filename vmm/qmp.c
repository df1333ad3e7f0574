/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qmp_internal.h"

#include "base/util.h"

#define DEPTH_MAX 32
#define ID_PREFIX "crv-"

void qmp_init(struct qmp *q, qmp_event_fn *on_event, void *arg)
{
	*q = (struct qmp){.in.max = QMP_LINE_MAX, .on_event = on_event, .arg = arg};
}

void qmp_done(struct qmp *q)
{
	json_object_put(q->reply);
	q->reply = NULL;
	buf_done(&q->in);
}

static const char *get_string(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string)
		       ? json_object_get_string(v)
		       : NULL;
}

/* A reply to an older command, whose caller gave up, is dropped. */
static void take_reply(struct qmp *q, struct json_object *o)
{
	const char *id = get_string(o, "id");
	uint64_t n;

	if (!id || !str_starts(id, ID_PREFIX) || parse_u64(id + strlen(ID_PREFIX), &n) < 0 || n != q->id ||
	    q->reply)
		return;
	q->reply = json_object_get(o);
}

static int take_message(struct qmp *q, struct json_object *o, struct err *err)
{
	struct json_object *v = NULL;
	const char *event;

	if (!json_object_is_type(o, json_type_object))
		return err_set(err, -EPROTO, "QMP: a message that is not an object");
	event = get_string(o, "event");
	if (event) {
		json_object_object_get_ex(o, "data", &v);
		if (v && !json_object_is_type(v, json_type_object))
			v = NULL;
		if (q->on_event)
			q->on_event(event, v, q->arg);
	} else if (json_object_object_get_ex(o, "QMP", &v)) {
		q->greeted = true;
	} else if (json_object_object_get_ex(o, "return", &v) || json_object_object_get_ex(o, "error", &v)) {
		take_reply(q, o);
	} else {
		return err_set(err, -EPROTO, "QMP: a message that is neither greeting, event nor reply");
	}
	return 0;
}

static int take_line(struct qmp *q, const char *line, size_t len, struct err *err)
{
	struct json_tokener *t;
	struct json_object *o;
	int r;

	while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == ' '))
		len--;
	if (len == 0)
		return 0;
	t = json_tokener_new_ex(DEPTH_MAX);
	if (!t)
		return err_set(err, -ENOMEM, "QMP: out of memory");
	json_tokener_set_flags(t, JSON_TOKENER_STRICT);
	o = json_tokener_parse_ex(t, line, (int)len);
	/* A number or literal at the very end is complete only at a delimiter; no QMP message is one. */
	if (json_tokener_get_error(t) != json_tokener_success || !o)
		r = err_set(err, -EPROTO, "QMP: bad JSON (%s): %.80s",
			    json_tokener_error_desc(json_tokener_get_error(t)), line);
	else
		r = take_message(q, o, err);
	json_object_put(o);
	json_tokener_free(t);
	return r;
}

int qmp_feed(struct qmp *q, struct err *err)
{
	for (;;) {
		unsigned char *data = buf_data(&q->in);
		unsigned char *nl = q->in.len ? memchr(data, '\n', q->in.len) : NULL;
		size_t len;
		int r;

		if (!nl)
			break;
		len = (size_t)(nl - data);
		*nl = 0;
		r = take_line(q, (const char *)data, len, err);
		buf_consume(&q->in, len + 1);
		if (r < 0)
			return r;
	}
	if (q->in.len >= QMP_LINE_MAX)
		return err_set(err, -EPROTO, "QMP: a line longer than %d bytes", QMP_LINE_MAX);
	return 0;
}

char *qmp_request(struct qmp *q, const char *command, struct json_object *arguments)
{
	struct json_object *o = json_object_new_object();
	char id[32];
	char *text = NULL;

	snprintf(id, sizeof(id), ID_PREFIX "%llu", (unsigned long long)++q->id);
	json_object_put(q->reply);
	q->reply = NULL;
	if (o) {
		json_object_object_add(o, "execute", json_object_new_string(command));
		if (arguments)
			json_object_object_add(o, "arguments", arguments);
		json_object_object_add(o, "id", json_object_new_string(id));
		text = xasprintf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
		json_object_put(o);
	} else {
		json_object_put(arguments);
	}
	return text;
}

int qmp_result(const struct qmp *q, struct json_object **ret_value, struct err *err)
{
	struct json_object *e, *v;

	if (json_object_object_get_ex(q->reply, "error", &e)) {
		const char *desc = json_object_is_type(e, json_type_object) ? get_string(e, "desc") : NULL;
		const char *class = json_object_is_type(e, json_type_object) ? get_string(e, "class") : NULL;

		if (str_eq(class, "DeviceNotFound"))
			return err_set(err, -ENOENT, "QEMU: %s", desc ? desc : "DeviceNotFound");
		return err_set_status(err, -EREMOTEIO, ERR_INTERNAL, "QEMU: %s",
				      desc ? desc : "an error without words");
	}
	if (!json_object_object_get_ex(q->reply, "return", &v))
		return err_set(err, -EPROTO, "QMP: a reply without return");
	if (ret_value)
		*ret_value = v;
	return 0;
}
