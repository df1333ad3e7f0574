#include "cri/image.h"

#include <errno.h>

int image_import(struct image_store *images, const char *path, const char *name, char ***ret_ids, struct err *err)
{
	(void)images;
	(void)name;
	(void)ret_ids;
	return err_set(err, -ENOSYS, "importing %s is not implemented yet", path);
}

int image_export(struct image_store *images, const char *ref, const char *path, struct err *err)
{
	(void)images;
	(void)path;
	return err_set(err, -ENOSYS, "exporting %s is not implemented yet", ref);
}
