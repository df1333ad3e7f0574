/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the server's end has left beside its rows: files that were not finished, and after a power cut files
 * whose rows are gone, since the database lost its last commits.
 */
#include "cri/pods/pods_internal.h"

#include "base/log.h"
#include "base/procfs.h"
#include "base/util.h"

#include <dirent.h>

#define BOOT_ID_MAX 64 /* of the file that notes it: earlier versions ended it with a newline */

static bool known(struct pods *pods, const char *kind, const char *id)
{
	void *data CLEANUP_FREE = NULL;
	size_t len;

	/* A look-up that fails does not say that the row is missing. */
	return store_get(pods->parts.store, kind, id, &data, &len, NULL) != -ENOENT;
}

/* Names in a directory, without `suffix`, of those that end in it. */
static char **names_in(const char *path, const char *suffix)
{
	DIR *dir = opendir(path);
	char **names = NULL;
	struct dirent *de;

	while (dir && (de = readdir(dir))) {
		if (de->d_name[0] == '.' || !str_ends(de->d_name, suffix))
			continue;
		de->d_name[strlen(de->d_name) - strlen(suffix)] = 0;
		if (strv_add(&names, de->d_name) < 0)
			break;
	}
	if (dir)
		closedir(dir);
	return names;
}

static void sweep_layers(struct pods *pods)
{
	char *path CLEANUP_FREE = xasprintf("%s/containers", pods->parts.config->server.state_dir);
	char **names CLEANUP_STRV = path ? names_in(path, "") : NULL;

	for (size_t i = 0; names && names[i]; i++) {
		struct err err = ERR_INIT;

		if (known(pods, "container", names[i]))
			continue;
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", names[i]),
			 "its row was lost: removing its files");
		if (rootfs_remove(pods->parts.rootfs, names[i], &err) < 0)
			log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", names[i]), "removing them: %s",
				 err.msg);
	}
}

static void sweep_log_positions(struct pods *pods)
{
	char *path CLEANUP_FREE = xasprintf("%s/logs", pods->parts.config->server.state_dir);
	char **names CLEANUP_STRV = path ? names_in(path, ".pos") : NULL;

	for (size_t i = 0; names && names[i]; i++) {
		char *pos CLEANUP_FREE = container_pos_path(pods, names[i]);

		if (!known(pods, "container", names[i]) && (!pos || (unlink(pos) < 0 && errno != ENOENT)))
			log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", names[i]),
				 "removing the position of its log: %s", strerror(errno));
	}
}

/*
 * Records of the network that cannot be read: those that can were given back by cni_gc. A torn file still has
 * the pod's id for its name, and that is all that the plugins' DEL needs.
 */
static void sweep_attachments(struct pods *pods)
{
	char *path CLEANUP_FREE = xasprintf("%s/cni", pods->parts.config->server.state_dir);
	char **names CLEANUP_STRV = path ? names_in(path, ".json") : NULL;

	for (size_t i = 0; names && names[i]; i++) {
		char *netns CLEANUP_FREE =
			xasprintf("%s/netns/%.20s", pods->parts.config->server.run_dir, names[i]);
		struct err err = ERR_INIT;

		if (known(pods, "pod", names[i]))
			continue;
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", names[i]),
			 "its row was lost: giving its addresses back");
		if (!netns || pod_undo(pods, names[i], "cni", netns, &err) < 0)
			log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", names[i]), "giving them back: %s",
				 err.msg);
	}
}

static void sweep_unfinished(struct pods *pods)
{
	static const char *const places[] = {"", "/cni"};

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char *path CLEANUP_FREE = xasprintf("%s%s", pods->parts.config->server.state_dir, places[i]);
		int r = path ? remove_unfinished(path) : -ENOMEM;

		if (r < 0)
			log_error("removing unfinished files in %s: %s", path ? path : "the state directory",
				  strerror(-r));
	}
}

void state_sweep(struct pods *pods)
{
	char *path CLEANUP_FREE = xasprintf("%s/boot_id", pods->parts.config->server.state_dir);
	char now[PROCFS_BOOT_ID_SIZE];
	char *then CLEANUP_FREE = NULL;
	int r = procfs_boot_id(now);

	sweep_unfinished(pods);
	if (r < 0 || !path)
		return;
	/* Within one boot no row is ever lost, and files that a VM may use are never removed on a guess. */
	if (read_file(path, BOOT_ID_MAX, &then, NULL) == 0) {
		then[strcspn(then, "\n")] = 0;
		if (str_eq(now, then))
			return;
	}
	sweep_layers(pods);
	sweep_log_positions(pods);
	sweep_attachments(pods);
	r = write_file_atomic(path, now, strlen(now), 0600, false);
	if (r < 0)
		log_error("noting this boot: %s", strerror(-r));
}
