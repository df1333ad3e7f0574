/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ch_internal.h: what the files of the Cloud Hypervisor driver share.
 *
 * Facts: cloud-hypervisor v53: `--help`, vmm/src/api/openapi/cloud-hypervisor.yaml, event_monitor/ and the
 *        places named in the code. An error's body is a JSON array of messages, the outermost first
 *        (vmm/src/api/http/mod.rs, error_response).
 */
#ifndef VMM_CH_INTERNAL_H
#define VMM_CH_INTERNAL_H

#include "vmm/driver_internal.h"

#include "base/buf.h"

#include <json-c/json.h>

#define CH_REPLY_MAX (4 * 1024 * 1024)
#define CH_EVENT_MAX (64 * 1024)
#define CH_EVENT_END "\n\n"

struct ch {
	int events;    /* the event file; -1: none */
	off_t offset;  /* in it, of what is read next */
	off_t trimmed; /* what lies before is a hole */
	bool skip;     /* `in` begins within an event that has been taken */
	bool up;       /* the VM has booted, or has been restored */
	struct buf in;
};

/* ---- ch_api.c ------------------------------------------------------------------------------------------ */

struct ch_request {
	const char *socket;	  /* path of the API's socket */
	const char *method;	  /* "GET" or "PUT" */
	const char *endpoint;	  /* "vm.add-disk" */
	struct json_object *body; /* NULL: none; borrowed */
	int stop_fd, pid_fd;	  /* if either becomes readable, the request is given up; -1: none */
};
/*
 * One request. *ret_reply (may be NULL) is the JSON of a 200, or NULL for a 204; any other status is an error
 * with the VMM's words. -ETIMEDOUT, -ECANCELED (stop_fd), -ENOTCONN (pid_fd, or the connection broke).
 */
int ch_request(const struct ch_request *rq, int64_t deadline_ns, struct json_object **ret_reply,
	       struct err *err);
/* ch_request for a VM. Takes ownership of body, on failure too. */
int ch_call(struct vm *vm, const char *method, const char *endpoint, struct json_object *body,
	    int64_t deadline_ns, struct json_object **ret_reply, struct err *err);
/*
 * The messages of an error's body on one line. A body that is not a JSON array of strings is shown as it is.
 */
void ch_error_words(const char *body, size_t len, char *out, size_t size);

/* ---- ch_cmdline.c -------------------------------------------------------------------------------------- */

int ch_command(const struct vm *vm, const struct vm_launch *launch, char ***ret_argv, struct err *err);
/* Makes <run_dir>/restore from a snapshot: its files, and its config.json with this VM's paths in it. */
int ch_prepare_restore(const struct vm *vm, const struct vm_launch *launch, struct err *err);

/* ---- ch_event.c ---------------------------------------------------------------------------------------- */

/*
 * Takes the complete events from `in`; 0 or -EPROTO. Sets `up` of vm->state, calls vm_push_event and
 * vm_device_removed.
 */
int ch_feed_events(struct vm *vm, struct buf *in, struct err *err);

/* ---- ch_device.c --------------------------------------------------------------------------------------- */

int ch_attach(struct vm *vm, const struct vm_device *device, char ret_pci[VM_PCI_ADDRESS_MAX],
	      int64_t deadline_ns, struct err *err);
int ch_detach(struct vm *vm, const struct vm_slot *slot, int64_t deadline_ns, struct err *err);
int ch_resize(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns, struct err *err);
/* The endpoint and body that plug a device; the body is the caller's. */
int ch_device_request(const struct vm_device *device, const char **ret_endpoint,
		      struct json_object **ret_body, struct err *err);
/* Fills the VM's device table from vm.info's answer. */
int ch_learn(struct vm *vm, struct json_object *info, struct err *err);

#endif
