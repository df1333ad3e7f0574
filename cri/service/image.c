/* SPDX-License-Identifier: Apache-2.0 */
/* ImageService. */
#include "cri/service/service.h"

#include "base/util.h"
#include "cri/image/image.h"
#include "api/cri/runtime.pb-c.h"
#include "api/pb.h"
#include "cri/service/util_internal.h"

int service_image_of(Runtime__V1__Image *to, const struct image *from)
{
	uint64_t uid;
	char user[256];

	if (pb_set_str(&to->id, from->id) < 0 ||
	    pb_set_strv(&to->repo_tags, &to->n_repo_tags, from->repo_tags, strv_len(from->repo_tags)) < 0 ||
	    pb_set_strv(&to->repo_digests, &to->n_repo_digests, from->repo_digests,
			strv_len(from->repo_digests)) < 0)
		return -ENOMEM;
	to->size = from->size_bytes ? from->size_bytes : 1;
	to->pinned = from->pinned;
	to->spec = pb_new(&runtime__v1__image_spec__descriptor);
	if (!to->spec || pb_set_str(&to->spec->image, from->id) < 0)
		return -ENOMEM;
	/* The image's user without its group: a number, a name, or neither. */
	snprintf(user, sizeof(user), "%s", from->config.user ? from->config.user : "");
	user[strcspn(user, ":")] = 0;
	if (parse_u64(user, &uid) == 0 && uid <= INT64_MAX) {
		to->uid = pb_new(&runtime__v1__int64_value__descriptor);
		if (!to->uid)
			return -ENOMEM;
		to->uid->value = (int64_t)uid;
		return 0;
	}
	return *user ? pb_set_str(&to->username, user) : 0;
}

SERVICE_HANDLER(list_images)
{
	const struct service *service = ctx;
	const Runtime__V1__ListImagesRequest *req = (const void *)request;
	Runtime__V1__ListImagesResponse *resp = (void *)response;
	const char *ref = req->filter && req->filter->image ? req->filter->image->image : NULL;
	struct image **list = NULL;
	int r = image_list(service->images, str_empty(ref) ? NULL : ref, &list, err);

	for (size_t i = 0; r == 0 && list && list[i]; i++) {
		Runtime__V1__Image *im =
			pb_append(&resp->images, &resp->n_images, &runtime__v1__image__descriptor);

		if (!im || service_image_of(im, list[i]) < 0)
			r = err_oom(err);
	}
	for (size_t i = 0; list && list[i]; i++)
		image_free(list[i]);
	free(list);
	return r;
}

SERVICE_HANDLER(image_status)
{
	const struct service *service = ctx;
	const Runtime__V1__ImageStatusRequest *req = (const void *)request;
	Runtime__V1__ImageStatusResponse *resp = (void *)response;
	struct image *image = NULL;
	int r;

	if (!req->image || str_empty(req->image->image))
		return err_set(err, -EINVAL, "image.image is missing");
	r = image_get(service->images, req->image->image, &image, err);
	if (r == -ENOENT)
		return 0; /* an absent image is an answer, not an error */
	if (r < 0)
		return r;
	resp->image = pb_new(&runtime__v1__image__descriptor);
	r = resp->image ? service_image_of(resp->image, image) : -ENOMEM;
	if (r == 0 && req->verbose && image->config_json)
		r = pb_map_add(&resp->info, &resp->n_info,
			       &runtime__v1__image_status_response__info_entry__descriptor, "imageSpec",
			       image->config_json);
	image_free(image);
	return r < 0 ? err_oom(err) : 0;
}

SERVICE_HANDLER(pull_image)
{
	const struct service *service = ctx;
	const Runtime__V1__PullImageRequest *req = (const void *)request;
	Runtime__V1__PullImageResponse *resp = (void *)response;
	struct image_auth auth = {0};
	char *id = NULL;
	int r;

	if (!req->image || str_empty(req->image->image))
		return err_set(err, -EINVAL, "image.image is missing");
	if (req->auth) {
		auth = (struct image_auth){
			.username = req->auth->username,
			.password = req->auth->password,
			.identity_token = req->auth->identity_token,
			.registry_token = req->auth->registry_token,
			.server_address = req->auth->server_address,
			.auth = req->auth->auth,
		};
	}
	r = image_pull(service->images, req->image->image, req->auth ? &auth : NULL, call, &id, err);
	if (r == 0)
		resp->image_ref = id;
	return r;
}

SERVICE_HANDLER(remove_image)
{
	const struct service *service = ctx;
	const Runtime__V1__RemoveImageRequest *req = (const void *)request;

	if (!req->image || str_empty(req->image->image))
		return err_set(err, -EINVAL, "image.image is missing");
	return image_remove(service->images, req->image->image, err);
}

static int add_usage(void *vector, size_t *n, const struct image_fs_info *info)
{
	Runtime__V1__FilesystemUsage *u = pb_append(vector, n, &runtime__v1__filesystem_usage__descriptor);

	if (!u)
		return -ENOMEM;
	u->timestamp = now_realtime_ns();
	u->fs_id = pb_new(&runtime__v1__filesystem_identifier__descriptor);
	u->used_bytes = pb_new(&runtime__v1__uint64_value__descriptor);
	u->inodes_used = pb_new(&runtime__v1__uint64_value__descriptor);
	if (!u->fs_id || !u->used_bytes || !u->inodes_used ||
	    pb_set_str(&u->fs_id->mountpoint, info->mountpoint) < 0)
		return -ENOMEM;
	u->used_bytes->value = info->used_bytes;
	u->inodes_used->value = info->inodes_used;
	return 0;
}

SERVICE_HANDLER(image_fs_info)
{
	const struct service *service = ctx;
	Runtime__V1__ImageFsInfoResponse *resp = (void *)response;
	struct image_fs_info info = {0};
	int r = image_fs_info(service->images, &info, err);

	if (r < 0)
		return r;
	/* Images and writable layers share one file system. */
	if (add_usage(&resp->image_filesystems, &resp->n_image_filesystems, &info) < 0 ||
	    add_usage(&resp->container_filesystems, &resp->n_container_filesystems, &info) < 0)
		r = err_oom(err);
	free(info.mountpoint);
	return r;
}
