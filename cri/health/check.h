/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h: what `crivisor check` finds out: records first, then one of two printers, so that text and JSON
 * cannot differ.
 *
 * A finding is one thing of the host. Its id never changes its meaning, for scripts rely on it; its words may
 * change. CHECK_MISSING is for what keeps pods from running with this configuration, and for nothing else:
 * what only the other VMM would need is CHECK_NOTE. Whatever is not CHECK_OK says how to fix it.
 *
 * Threads:   one. Leaves nothing on the host but kernel modules that it loads for what is tried
 *            (vmm/network.h).
 * Limits:    everything read is bounded by CHECK_FILE_MAX or by its own parser's limit.
 */
#ifndef CRI_HEALTH_CHECK_H
#define CRI_HEALTH_CHECK_H

#include "cri/config/config.h"
#include "vmm/cgroup.h"
#include "vmm/host.h"

#include <stdbool.h>
#include <stdio.h>

#define CHECK_FILE_MAX (1024 * 1024)

enum check_status {
	CHECK_OK,
	CHECK_NOTE,
	CHECK_MISSING,
};

struct check_finding {
	char *id, *message;
	char *fix; /* NULL with CHECK_OK only */
	enum check_status status;
};

struct check {
	const struct config *config;
	const char *root;   /* stands before the paths of /proc, /sys and /dev: "", but in tests */
	bool privileged;    /* what only root can try may be tried */
	const char *driver; /* the VMM that pods get here; NULL: none can be had */
	bool kvm;	    /* and it runs on KVM */
	struct check_finding *findings;
	size_t n;
	bool oom; /* a finding is lost: nothing of this may be printed */
};

/* Records a finding. fix is copied; NULL with CHECK_OK, never else. */
void check_add(struct check *check, const char *id, enum check_status status, const char *fix,
	       const char *fmt, ...) __attribute__((format(printf, 5, 6)));
#define check_ok(check, id, ...) check_add(check, id, CHECK_OK, NULL, __VA_ARGS__)
size_t check_missing(const struct check *check);
void check_done(struct check *check);

/* 0 or -EIO. */
int check_print_text(const struct check *check, FILE *out);
/*
 * {"version": "0.1.0", "ready": bool, "missing": N, "checks": [{"id", "status": "ok" | "note" | "missing",
 * "message", "fix": string or null}, …]}. 0, -ENOMEM or -EIO.
 */
int check_print_json(const struct check *check, FILE *out);

/* A whole file of the host below check->root; the caller frees. 0 or a negative errno. */
int check_read(const struct check *check, const char *path, char **ret_text);
/* A number that is all that a file holds. */
int check_read_number(const struct check *check, const char *path, uint64_t *ret_value);
/* Opens a device for reading and writing and closes it again: 0 or a negative errno. */
int check_open(const struct check *check, const char *path);

/* ---- the checks themselves, in the order in which they are made ---------------------------------------- */

/* check_host.c: the kernel and what it gives. Sets check->privileged. */
void check_host(struct check *check);
/* check_vm.c: virtualization, programs, guest. Sets check->driver. */
void check_vm(struct check *check);
void check_kvm(struct check *check, const struct vmm_kvm *kvm, bool known);
void check_vsock(struct check *check);
/* check_memory.c */
void check_memory(struct check *check);
/* check_cgroup.c */
void check_cgroups(struct check *check, const struct vmm_cgroups *cgroups, const struct err *err);
/* check_net.c: taps, and the pod network. */
void check_net(struct check *check);
/* check_disk.c: directories and the socket. */
void check_disk(struct check *check);

#endif
