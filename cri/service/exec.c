/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: commands in containers. */
#include "cri/pods/containers.h"
#include "cri/service/service.h"

#include "base/util.h"

SERVICE_HANDLER(exec_sync)
{
	const struct service *service = ctx;
	const Runtime__V1__ExecSyncRequest *req = (const void *)request;
	Runtime__V1__ExecSyncResponse *resp = (void *)response;
	struct exec_result result = {0};
	char **args CLEANUP_STRV = NULL;
	int r;

	for (size_t i = 0; i < req->n_cmd; i++) {
		if (strv_add(&args, req->cmd[i]) < 0)
			return err_oom(err);
	}
	r = containers_exec(service->pods, req->container_id, args, req->timeout, call, &result, err);
	if (r < 0)
		return r;
	resp->stdout.data = result.out;
	resp->stdout.len = result.out_len;
	resp->stderr.data = result.err_out;
	resp->stderr.len = result.err_len;
	resp->exit_code = result.exit_code;
	return 0;
}
