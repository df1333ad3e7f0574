/* SPDX-License-Identifier: Apache-2.0 */
/*
 * result_internal.h: what a plugin answers, checked.
 *
 * Threads:   pure functions.
 * Limits:    as struct cni_result has them: more addresses or routes than fit are an error, never cut in
 *            silence.
 * Source:    CNI spec 1.0.0 and 1.1.0, section 5 "Result types".
 */
#ifndef CRI_NETWORK_RESULT_INTERNAL_H
#define CRI_NETWORK_RESULT_INTERNAL_H

#include "base/err.h"
#include "cri/network/cni.h"

#include <stddef.h>

/* A prefix in CIDR form ("10.1.0.0/24", "fd00::1/64"). */
bool cni_cidr_valid(const char *cidr);
bool cni_address_valid(const char *address);
bool cni_ifname_valid(const char *name);

/*
 * Checks a plugin's result of the ADD command and takes the pod's part of it: addresses of `ifname`, routes,
 * MAC, MTU. A result without any address is valid here (plugins in the middle of a chain). ret->json stays
 * untouched.
 */
int cni_result_parse(const char *text, size_t len, const char *ifname, struct cni_result *ret,
		     struct err *err);

/*
 * Writes the words of a plugin's error object ({code, msg, details}) and its code; false if text is not such
 * an object.
 */
bool cni_error_parse(const char *text, size_t len, char *ret_words, size_t words_size,
		     unsigned int *ret_code);

#endif
