/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ch_event.c: Cloud Hypervisor's event monitor: JSON objects, each followed by an empty line (vmm/src/lib.rs,
 * start_event_monitor_thread); pretty-printed JSON holds no empty line itself.
 */
#include "vmm/ch_internal.h"
#include "vmm/death.h"

#include "base/util.h"
#include "vmm/json_internal.h"

static void take_event(struct vm *vm, struct json_object *o)
{
	const char *source = vjson_str(o, "source"), *event = vjson_str(o, "event");
	struct json_object *properties = NULL;
	struct ch *c = vm->state;
	char words[256] = "";

	json_object_object_get_ex(o, "properties", &properties);
	if (str_eq(source, "vm") && str_eq(event, "device-removed")) {
		enum vm_device_type type;
		const char *id = vm_device_id(vjson_str(properties, "id"), &type);

		if (id)
			vm_device_removed(vm, id);
	} else if (str_eq(source, "vm") && (str_eq(event, "booted") || str_eq(event, "restored"))) {
		c->up = true;
		vm_progress(vm);
	} else if (str_eq(source, "guest") && str_eq(event, "panic")) {
		vm_console_tail(vm->run_dir, words, sizeof(words));
		vm_push_event(vm, VM_EVENT_GUEST_PANIC, 0, "guest", words);
	} else if (str_eq(source, "vm") && str_eq(event, "rebooting")) {
		/* A guest's reset or triple fault becomes a reboot inside the same process. */
		vm_console_tail(vm->run_dir, words, sizeof(words));
		vm_push_event(vm, VM_EVENT_GUEST_RESET, 0, "guest", words);
	} else if ((str_eq(source, "vm") || str_eq(source, "vmm")) && str_eq(event, "shutdown")) {
		vm_push_event(vm, VM_EVENT_GUEST_SHUTDOWN, 0, "guest", "");
	}
}

static int take_text(struct vm *vm, const char *text, size_t len, struct err *err)
{
	struct json_tokener *t;
	struct json_object *o;
	int r = 0;

	while (len > 0 && (*text == '\n' || *text == ' ')) {
		text++;
		len--;
	}
	if (len == 0)
		return 0;
	t = json_tokener_new_ex(8);
	if (!t)
		return err_oom(err);
	o = json_tokener_parse_ex(t, text, (int)len);
	if (!o || !json_object_is_type(o, json_type_object))
		r = err_set(err, -EPROTO, "an event that is not a JSON object");
	else
		take_event(vm, o);
	json_object_put(o);
	json_tokener_free(t);
	return r;
}

int ch_feed_events(struct vm *vm, struct buf *in, struct err *err)
{
	struct ch *c = vm->state;
	int r = 0;

	while (r == 0 && in->len > 0) {
		const unsigned char *data = buf_data(in);
		const unsigned char *end = memmem(data, in->len, CH_EVENT_END, strlen(CH_EVENT_END));

		if (!end)
			return in->len >= CH_EVENT_MAX ? err_set(err, -EPROTO, "an overlong event") : 0;
		if (!c->skip)
			r = take_text(vm, (const char *)data, (size_t)(end - data), err);
		c->skip = false;
		buf_consume(in, (size_t)(end - data) + strlen(CH_EVENT_END));
	}
	return r;
}
