/* SPDX-License-Identifier: Apache-2.0 */
/* A localhost seccomp profile on its way into a container's spec. */
#include "cri/spec/spec.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Runtime__V1__ContainerConfig container = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerConfig lin = RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerSecurityContext sc = RUNTIME__V1__LINUX_CONTAINER_SECURITY_CONTEXT__INIT;
	Runtime__V1__SecurityProfile seccomp = RUNTIME__V1__SECURITY_PROFILE__INIT;
	struct oci_spec_input in = {.container = &container, .container_id = "c"};
	char command[] = "/c", *args[] = {command}, path[] = "/p";
	char *text = malloc(size + 1), *json = NULL;
	struct err err = ERR_INIT;

	if (!text)
		return 0;
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	container.linux = &lin;
	container.command = args;
	container.n_command = 1;
	lin.security_context = &sc;
	sc.seccomp = &seccomp;
	seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	seccomp.localhost_ref = path;
	in.seccomp_profile_json = text;
	if (oci_spec_build(&in, &json, &err) < 0 && !err.msg[0])
		__builtin_trap();
	free(json);
	free(text);
	return 0;
}
