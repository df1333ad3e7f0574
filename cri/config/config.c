/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/config/config.h"
#include "cri/config/uid_range.h"
#include "cri/config/ulimit.h"

#include "base/text.h"
#include "base/util.h"
#include "cri/config/toml_internal.h"

#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <sys/stat.h>

#define FILE_MAX_BYTES (1 << 20)
#define MIB	       (UINT64_C(1) << 20)
#define DEFAULT_KERNEL "/usr/share/crivisor/vmlinux"
#define DEFAULT_IMAGE  "/usr/share/crivisor/guest.img"

enum key_type {
	KEY_STRING,    /* one line of text, may be empty */
	KEY_PATH,      /* absolute */
	KEY_PATH_AUTO, /* absolute, or empty: NULL, found by the program */
	KEY_PATHS,     /* a list of absolute paths */
	KEY_ULIMITS,   /* a list of words of ulimit.h */
	KEY_UIDS,      /* words of uid_range.h */
	KEY_CGROUP,    /* absolute, without ".." */
	KEY_CHOICE,    /* one of `choices`, kept as a string */
	KEY_LEVEL,     /* one of `choices`, kept as enum log_level */
	KEY_BOOL,
	KEY_U32,
	KEY_MIB, /* kept in bytes */
};

/* One key: where its value lives in struct config, and its line of documentation. */
struct key {
	const char *section, *name;
	enum key_type type;
	size_t at;
	int64_t min, max;
	const char *choices; /* "a b c" */
	const char *doc;
};

#define AT(field) offsetof(struct config, field)
static const struct key keys[] = {
	{"server", "socket", KEY_PATH, AT(server.socket), 0, 0, NULL,
	 "Where kubelet and crictl connect (mode 0660)."},
	{"server", "state_dir", KEY_PATH, AT(server.state_dir), 0, 0, NULL,
	 "Images, containers and the database: outlives a reboot."},
	{"server", "run_dir", KEY_PATH, AT(server.run_dir), 0, 0, NULL,
	 "Sockets, mounts, network namespaces: per boot. Keep it short: UNIX socket paths end at 107 bytes."},
	{"server", "log_level", KEY_LEVEL, AT(server.log_level), 0, 0, "error warn info debug trace",
	 "error, warn, info, debug or trace; read again on SIGHUP."},
	{"cni", "bin_dirs", KEY_PATHS, AT(cni.bin_dirs), 0, 0, NULL,
	 "CNI plugins are searched here, in this order."},
	{"cni", "conf_dir", KEY_PATH, AT(cni.conf_dir), 0, 0, NULL,
	 "The first *.conflist, *.conf or *.json by name is the pod network."},
	{"image", "registry_config_dir", KEY_PATH, AT(image.registry_config_dir), 0, 0, NULL,
	 "Mirrors, CA certificates and plain-HTTP registries: one directory per registry with a hosts.toml."},
	{"sandbox", "cgroup_parent", KEY_CGROUP, AT(sandbox.cgroup_parent), 0, 0, NULL,
	 "Parent of the pods' cgroups, for pods that name none themselves."},
	{"sandbox", "default_ulimits", KEY_ULIMITS, AT(sandbox.default_ulimits), 0, 0, NULL,
	 "Limits of containers' processes: \"name=soft[:hard]\". Beside what stands here: "
	 "nofile=1024:524288, "
	 "nproc=-1, sigpending=65536."},
	{"sandbox", "enable_tracing", KEY_BOOL, AT(sandbox.enable_tracing), 0, 0, NULL,
	 "Trace the steps of each pod."},
	{"sandbox", "allow_netns_rules", KEY_BOOL, AT(sandbox.allow_netns_rules), 0, 0, NULL,
	 "Run pods whose network namespace has nftables or iptables rules, without these rules."},
	{"sandbox", "spoof_check", KEY_BOOL, AT(sandbox.spoof_check), 0, 0, NULL,
	 "Drop frames that leave a pod with a MAC or an address that is not its own."},
	{"sandbox", "uid_range", KEY_UIDS, AT(sandbox.uid_range), 0, 0, NULL,
	 "Each VM runs as a user of its own out of these. Nothing else on the host may use them. Empty: as "
	 "root."},
	{"sandbox", "layer_in_mb", KEY_MIB, AT(sandbox.layer_bytes), 0, 1 << 30, NULL,
	 "What a container's writable layer takes at most, and layer_files its files; 0: no limit."},
	{"sandbox", "layer_files", KEY_U32, AT(sandbox.layer_files), 0, UINT32_MAX, NULL, NULL},
	{"stream", "address", KEY_STRING, AT(stream.address), 0, 0, NULL,
	 "Where clients of exec, attach and port-forward connect: <address>:<port>; port 0: any that is "
	 "free."},
	{"stream", "tls_cert_file", KEY_PATH_AUTO, AT(stream.tls_cert_file), 0, 0, NULL,
	 "Certificate and key in PEM, for HTTPS; empty: HTTP."},
	{"stream", "tls_key_file", KEY_PATH_AUTO, AT(stream.tls_key_file), 0, 0, NULL, NULL},
	{"hypervisor", "driver", KEY_CHOICE, AT(hypervisor.driver), 0, 0, "auto cloud-hypervisor qemu",
	 "auto, cloud-hypervisor or qemu. auto: Cloud Hypervisor if it is there and KVM really virtualizes, "
	 "else QEMU."},
	{"hypervisor", "path", KEY_PATH_AUTO, AT(hypervisor.path), 0, 0, NULL,
	 "The VMM's binary; empty: /usr/local/bin/cloud-hypervisor or qemu-system-x86_64, else from PATH."},
	{"hypervisor", "vcpus", KEY_U32, AT(hypervisor.vcpus), 1, 254, NULL,
	 "What a pod without limits boots with; read again on SIGHUP, as is memory_in_mb."},
	{"hypervisor", "memory_in_mb", KEY_MIB, AT(hypervisor.memory_bytes), 64, 16 << 20, NULL, NULL},
	{"hypervisor", "kernel_path", KEY_PATH, AT(hypervisor.kernel_path), 0, 0, NULL,
	 "The guest. Where these defaults do not exist, guest/ beside the binary is looked into."},
	{"hypervisor", "image_path", KEY_PATH, AT(hypervisor.image_path), 0, 0, NULL, NULL},
	{"hypervisor", "kernel_params", KEY_STRING, AT(hypervisor.kernel_params), 0, 0, NULL,
	 "Appended to the kernel command line."},
	{"hypervisor", "hugepages", KEY_BOOL, AT(hypervisor.hugepages), 0, 0, NULL,
	 "Back the guest's memory with huge pages, which the host must have reserved."},
	{"hypervisor", "entropy_source", KEY_PATH, AT(hypervisor.entropy_source), 0, 0, NULL,
	 "Where virtio-rng reads."},
	{"hypervisor", "debug", KEY_BOOL, AT(hypervisor.debug), 0, 0, NULL, "The VMM's own debug output."},
	{"hypervisor.virtiofsd", "path", KEY_PATH_AUTO, AT(hypervisor.virtiofsd_path), 0, 0, NULL,
	 "Empty: the Rust virtiofsd if there is one, else Debian's C one."},
	{"hypervisor.virtiofsd", "log_level", KEY_CHOICE, AT(hypervisor.virtiofsd_log_level), 0, 0,
	 "error warn info debug trace off", "error, warn, info, debug, trace or off."},
	{"hypervisor.virtiofsd", "cache", KEY_CHOICE, AT(hypervisor.virtiofsd_cache), 0, 0,
	 "never auto always metadata",
	 "never, auto, metadata or always. auto: the guest sees what the host changes up to a second late, "
	 "metadata and always: up to a day."},
	{"hypervisor.virtiofsd", "thread_pool_size", KEY_U32, AT(hypervisor.virtiofsd_thread_pool_size), 0,
	 256, NULL, NULL},
	{"hypervisor.virtiofsd", "max_files", KEY_U32, AT(hypervisor.virtiofsd_max_files), 256, 1048576, NULL,
	 "Files of the host that one pod's virtiofsd holds at most; each one that the guest knows of "
	 "counts."},
	{"hypervisor.task", "debug", KEY_BOOL, AT(hypervisor.task_debug), 0, 0, NULL,
	 "The agent's debug log, and a root shell in the guest on vsock port 1025."},
	{"hypervisor.task", "enable_tracing", KEY_BOOL, AT(hypervisor.task_enable_tracing), 0, 0, NULL, NULL},
};

static void *field_of(struct config *config, const struct key *key)
{
	return (char *)config + key->at;
}

static const void *field_of_const(const struct config *config, const struct key *key)
{
	return (const char *)config + key->at;
}

/* ---- defaults and freeing ------------------------------------------------------------------------------ */

int config_init(struct config *config)
{
	struct config c = {
		.server.log_level = LOG_LEVEL_INFO,
		.sandbox = {.spoof_check = true, .layer_bytes = 10240 * MIB, .layer_files = 1000000},
		.hypervisor = {.vcpus = 1,
			       .memory_bytes = 1024 * MIB,
			       .virtiofsd_thread_pool_size = 4,
			       .virtiofsd_max_files = 262144}};
	const struct {
		char **field;
		const char *value;
	} strings[] = {
		{&c.server.socket, "/run/crivisor/crivisor.sock"},
		{&c.server.state_dir, "/var/lib/crivisor"},
		{&c.server.run_dir, "/run/crivisor"},
		{&c.cni.conf_dir, "/etc/cni/net.d"},
		{&c.image.registry_config_dir, "/etc/crivisor/certs.d"},
		{&c.sandbox.cgroup_parent, "/crivisor"},
		{&c.sandbox.uid_range, UID_RANGE_DEFAULT},
		{&c.stream.address, "127.0.0.1:0"},
		{&c.hypervisor.driver, "auto"},
		{&c.hypervisor.kernel_path, DEFAULT_KERNEL},
		{&c.hypervisor.image_path, DEFAULT_IMAGE},
		{&c.hypervisor.kernel_params, ""},
		{&c.hypervisor.entropy_source, "/dev/urandom"},
		{&c.hypervisor.virtiofsd_log_level, "info"},
		{&c.hypervisor.virtiofsd_cache, "auto"},
	};
	int r = strv_add(&c.cni.bin_dirs, "/opt/cni/bin");

	if (r == 0)
		r = strv_add(&c.cni.bin_dirs, "/usr/lib/cni");
	for (size_t i = 0; i < ARRAY_SIZE(strings) && r == 0; i++)
		r = str_set(strings[i].field, strings[i].value);
	if (r < 0)
		config_done(&c);
	*config = c;
	return r;
}

void config_done(struct config *config)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		char **string = field_of(config, &keys[i]);
		char ***strings = field_of(config, &keys[i]);

		switch (keys[i].type) {
		case KEY_STRING:
		case KEY_PATH:
		case KEY_PATH_AUTO:
		case KEY_CGROUP:
		case KEY_UIDS:
		case KEY_CHOICE:
			free(move_ptr(*string));
			break;
		case KEY_PATHS:
		case KEY_ULIMITS:
			*strings = strv_free(*strings);
			break;
		case KEY_LEVEL:
		case KEY_BOOL:
		case KEY_U32:
		case KEY_MIB:
			break;
		}
	}
	free(move_ptr(config->file));
	free(move_ptr(config->hypervisor.spawn_helper));
	free(move_ptr(config->hypervisor.helper_dir));
	free(move_ptr(config->hypervisor.vsock_daemon_path));
}

/* ---- checks -------------------------------------------------------------------------------------------- */

/* Where a value came from, for messages. */
struct origin {
	const char *file, *key;
	unsigned int line;
};

static int bad(const struct origin *o, const char *want, struct err *err)
{
	return err_set(err, -EINVAL, "%s:%u: %s must be %s", o->file, o->line, o->key, want);
}

static bool is_path(const char *s)
{
	return s[0] == '/' && strlen(s) < PATH_MAX && text_is_line(s);
}

static bool has_dotdot(const char *s)
{
	for (const char *p = s; (p = strstr(p, "..")); p += 2)
		if ((p == s || p[-1] == '/') && (p[2] == 0 || p[2] == '/'))
			return true;
	return false;
}

static bool is_choice(const char *choices, const char *s)
{
	size_t len = strlen(s);

	for (const char *p = choices; *p; p += strspn(p, " ")) {
		size_t n = strcspn(p, " ");

		if (n == len && memcmp(p, s, n) == 0)
			return true;
		p += n;
	}
	return false;
}

static int bad_choice(const struct origin *o, const struct key *key, const char *value, struct err *err)
{
	return err_set(err, -EINVAL, "%s:%u: %s must be one of: %s; not \"%s\"", o->file, o->line, o->key,
		       key->choices, value);
}

static int set_string(char **field, const char *value, struct err *err)
{
	return str_set(field, value) < 0 ? err_oom(err) : 0;
}

static int take_string(struct config *config, const struct key *key, const struct origin *o,
		       const char *value, struct err *err)
{
	char **field = field_of(config, key);
	struct uid_range range;

	switch (key->type) {
	case KEY_PATH:
		if (!is_path(value))
			return bad(o, "an absolute path", err);
		return set_string(field, value, err);
	case KEY_PATH_AUTO:
		if (*value && !is_path(value))
			return bad(o, "an absolute path, or empty", err);
		return set_string(field, *value ? value : NULL, err);
	case KEY_CGROUP:
		if (!is_path(value) || has_dotdot(value))
			return bad(o, "an absolute path without \"..\"", err);
		return set_string(field, value, err);
	case KEY_UIDS:
		if (uid_range_parse(value, &range) < 0)
			return bad(o,
				   "empty, or a range of user ids such as \"" UID_RANGE_DEFAULT
				   "\", above 999",
				   err);
		return set_string(field, value, err);
	case KEY_CHOICE:
		if (!is_choice(key->choices, value))
			return bad_choice(o, key, value, err);
		return set_string(field, value, err);
	case KEY_LEVEL:
		if (log_level_parse(value, field_of(config, key)) < 0)
			return bad_choice(o, key, value, err);
		return 0;
	default:
		if (!text_is_line(value))
			return bad(o, "one line without control characters", err);
		return set_string(field, value, err);
	}
}

static int take_strings(struct config *config, const struct key *key, const struct origin *o,
			const char *const *values, struct err *err)
{
	char **copy CLEANUP_STRV = NULL;
	char ***field = field_of(config, key);
	struct ulimit limit;

	for (size_t i = 0; values[i]; i++) {
		if (key->type == KEY_PATHS && !is_path(values[i]))
			return bad(o, "a list of absolute paths", err);
		if (key->type == KEY_ULIMITS && ulimit_parse(values[i], &limit) < 0)
			return bad(o, "a list of limits such as \"nofile=1024:524288\"", err);
		if (strv_add(&copy, values[i]) < 0)
			return err_oom(err);
	}
	strv_free(*field);
	*field = move_ptr(copy);
	return 0;
}

static int take_integer(struct config *config, const struct key *key, const struct origin *o, int64_t value,
			struct err *err)
{
	char want[64];

	if (value < key->min || value > key->max) {
		snprintf(want, sizeof(want), "from %" PRId64 " to %" PRId64, key->min, key->max);
		return bad(o, want, err);
	}
	if (key->type == KEY_MIB)
		*(uint64_t *)field_of(config, key) = (uint64_t)value * MIB;
	else
		*(uint32_t *)field_of(config, key) = (uint32_t)value;
	return 0;
}

static int take(struct config *config, const struct key *key, const struct origin *o,
		const struct config_toml_value *value, struct err *err)
{
	switch (key->type) {
	case KEY_BOOL:
		if (value->type != CONFIG_TOML_BOOLEAN)
			return bad(o, "true or false", err);
		*(bool *)field_of(config, key) = value->boolean;
		return 0;
	case KEY_U32:
	case KEY_MIB:
		if (value->type != CONFIG_TOML_INTEGER)
			return bad(o, "an integer", err);
		return take_integer(config, key, o, value->integer, err);
	case KEY_PATHS:
	case KEY_ULIMITS:
		if (value->type != CONFIG_TOML_STRINGS)
			return bad(o, "a list of strings", err);
		return take_strings(config, key, o, value->strings, err);
	default:
		if (value->type != CONFIG_TOML_STRING)
			return bad(o, "a string", err);
		return take_string(config, key, o, value->string, err);
	}
}

/* ---- reading ------------------------------------------------------------------------------------------- */

struct reading {
	struct config *config;
	const char *file;
};

static bool is_section(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (strncmp(keys[i].section, name, len) == 0 &&
		    (keys[i].section[len] == 0 || keys[i].section[len] == '.'))
			return true;
	return false;
}

static const struct key *find_key(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		size_t len = strlen(keys[i].section);

		if (strncmp(keys[i].section, name, len) == 0 && name[len] == '.' &&
		    str_eq(keys[i].name, name + len + 1))
			return &keys[i];
	}
	return NULL;
}

static int on_key(void *arg, const char *name, unsigned int line, const struct config_toml_value *value,
		  struct err *err)
{
	struct reading *reading = arg;
	const struct origin o = {.file = reading->file, .key = name, .line = line};
	const struct key *key = find_key(name);

	if (key)
		return take(reading->config, key, &o, value, err);
	if (is_section(name))
		return value->type == CONFIG_TOML_TABLE ? 0 : bad(&o, "a table", err);
	return err_set(err, -EINVAL, "%s:%u: unknown key \"%s\"", o.file, o.line, name);
}

static int read_one(struct config *config, const char *path, bool may_miss, struct err *err)
{
	struct reading reading = {.config = config, .file = path};
	char *text CLEANUP_FREE = NULL;
	size_t len;
	int r = read_file(path, FILE_MAX_BYTES, &text, &len);

	if (r == -ENOENT && may_miss)
		return 0;
	if (r == -ENOENT)
		return err_set(err, r, "no configuration file %s", path);
	if (r < 0)
		return err_set_errno(err, r, "configuration file %s", path);
	return config_toml_walk(path, text, len, on_key, &reading, err);
}

static int compare_names(const void *a, const void *b)
{
	const char *const *x = a, *const *y = b;

	return strcmp(*x, *y);
}

static int list_dropins(const char *dir, char ***ret_names, struct err *err)
{
	DIR *d = opendir(dir);
	char **names CLEANUP_STRV = NULL;
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : err_set_errno(err, -errno, "drop-in directory %s", dir);
	for (struct dirent *de; r == 0 && (de = readdir(d));)
		if (de->d_name[0] != '.' && str_ends(de->d_name, ".toml"))
			r = strv_add(&names, de->d_name);
	closedir(d);
	if (r < 0)
		return err_oom(err);
	if (names)
		qsort(names, strv_len(names), sizeof(*names), compare_names);
	*ret_names = move_ptr(names);
	return 0;
}

static int read_dropins(struct config *config, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char *dir CLEANUP_FREE =
		slash ? xasprintf("%.*s/config.d", (int)(slash - path), path) : strdup("config.d");
	char **names CLEANUP_STRV = NULL;
	int r = dir ? list_dropins(dir, &names, err) : err_oom(err);

	for (size_t i = 0; r == 0 && i < strv_len(names); i++) {
		char *file CLEANUP_FREE = xasprintf("%s/%s", dir, names[i]);

		r = file ? read_one(config, file, false, err) : err_oom(err);
	}
	return r;
}

/* A build tree holds the guest beside the binary; so does an unpacked archive. */
static int look_beside(char **path, const char *standard, const char *name)
{
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *beside CLEANUP_FREE = NULL;
	char *slash;

	if (n <= 0 || !str_eq(*path, standard) || access(standard, F_OK) == 0)
		return 0;
	exe[n] = 0;
	slash = strrchr(exe, '/');
	if (!slash)
		return 0;
	*slash = 0;
	beside = xasprintf("%s/guest/%s", exe, name);
	if (!beside)
		return -ENOMEM;
	return access(beside, F_OK) == 0 ? str_set(path, beside) : 0;
}

int config_load(const char *path, struct config *ret_config, struct err *err)
{
	struct config c;
	const char *file = path ? path : CONFIG_PATH;
	int r = config_init(&c);

	if (r < 0)
		return err_oom(err);
	r = read_one(&c, file, !path, err);
	if (r == 0)
		r = str_set(&c.file, path) < 0 ? err_oom(err) : 0;
	if (r == 0)
		r = read_dropins(&c, file, err);
	if (r == 0 && (look_beside(&c.hypervisor.kernel_path, DEFAULT_KERNEL, "vmlinux") < 0 ||
		       look_beside(&c.hypervisor.image_path, DEFAULT_IMAGE, "guest.img") < 0))
		r = err_oom(err);
	if (r < 0) {
		config_done(&c);
		return r;
	}
	*ret_config = c;
	return 0;
}

int config_reload(const struct config *config, struct config_live *ret_live, struct err *err)
{
	struct config now;
	int r = config_load(config->file, &now, err);

	if (r < 0)
		return r;
	*ret_live = (struct config_live){.log_level = now.server.log_level,
					 .vcpus = now.hypervisor.vcpus,
					 .memory_bytes = now.hypervisor.memory_bytes};
	config_done(&now);
	return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static void write_string(FILE *out, const char *s)
{
	fputc('"', out);
	for (; s && *s; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', out);
		fputc(*s, out);
	}
	fputc('"', out);
}

static void write_strings(FILE *out, char *const *v)
{
	fputc('[', out);
	for (size_t i = 0; v && v[i]; i++) {
		fputs(i ? ", " : "", out);
		write_string(out, v[i]);
	}
	fputc(']', out);
}

static void write_value(FILE *out, const struct config *config, const struct key *key)
{
	static const char *const levels[] = {"trace", "debug", "info", "warn", "error"};
	const void *field = field_of_const(config, key);

	switch (key->type) {
	case KEY_PATHS:
	case KEY_ULIMITS:
		write_strings(out, *(char *const *const *)field);
		break;
	case KEY_LEVEL:
		write_string(out, levels[*(const enum log_level *)field]);
		break;
	case KEY_BOOL:
		fputs(*(const bool *)field ? "true" : "false", out);
		break;
	case KEY_U32:
		fprintf(out, "%" PRIu32, *(const uint32_t *)field);
		break;
	case KEY_MIB:
		fprintf(out, "%" PRIu64, *(const uint64_t *)field / MIB);
		break;
	default:
		write_string(out, *(char *const *)field);
		break;
	}
	fputc('\n', out);
}

int config_write(const struct config *config, FILE *out)
{
	const char *section = "";

	fputs("# " CONFIG_PATH ": every key, with its default. Drop-ins in " CONFIG_DROPIN_DIR
	      "/*.toml override\n"
	      "# single keys. An unknown key is an error that names its line.\n",
	      out);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!str_eq(section, keys[i].section)) {
			section = keys[i].section;
			fprintf(out, "\n[%s]\n", section);
		}
		if (keys[i].doc)
			fprintf(out, "# %s\n", keys[i].doc);
		fprintf(out, "%s = ", keys[i].name);
		write_value(out, config, &keys[i]);
	}
	return ferror(out) ? -EIO : 0;
}

int config_write_default(FILE *out)
{
	struct config config;
	int r = config_init(&config);

	if (r == 0) {
		r = config_write(&config, out);
		config_done(&config);
	}
	return r;
}
