/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/driver_internal.h"

#include "base/util.h"
#include "vmm/guest_files_internal.h"
#include "vmm/wait_internal.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

/* The first processor's lines; reading all of a large host's takes milliseconds. */
#define CPUINFO_HEAD (16 * 1024)

/* The program DIR/NAME, if it is one. */
static bool program_in(const char *dir, const char *sub, const char *name, char *out, size_t size)
{
	return (size_t)snprintf(out, size, "%s%s/%s", dir, sub, name) < size && is_program(out);
}

int find_helper(const struct vmm_config *config, const char *name, char *out, size_t size, char *searched,
		size_t searched_size)
{
	const char *own = str_empty(config->helper_dir) ? VMM_HELPER_DIR : config->helper_dir;
	char bin[512], above[512] = "";
	ssize_t n = readlink("/proc/self/exe", bin, sizeof(bin) - 1);
	char *slash;

	bin[n > 0 ? n : 0] = 0;
	slash = strrchr(bin, '/');
	if (slash) {
		*slash = 0;
		snprintf(above, sizeof(above), "%s", bin);
		slash = strrchr(above, '/');
		if (slash)
			*slash = 0;
		/* As built, tests one level below; as installed, PREFIX/bin and PREFIX/libexec/crivisor. */
		if (program_in(bin, "", name, out, size) || program_in(above, "", name, out, size) ||
		    program_in(above, "/libexec/crivisor", name, out, size))
			return 0;
	}
	if (find_program(name, out, size) == 0 || program_in(own, "", name, out, size))
		return 0;
	if (searched)
		snprintf(searched, searched_size, "%s, %s/libexec/crivisor, PATH and %s", bin, above, own);
	return -ENOENT;
}

int find_spawn_helper(const struct vmm_config *config, char *out, size_t size, struct err *err)
{
	char searched[PATH_MAX];

	if (config->spawn_helper) {
		if (find_program(config->spawn_helper, out, size) == 0)
			return 0;
		return err_set(err, -ENOENT, "spawn helper %s is missing or not executable",
			       config->spawn_helper);
	}
	if (find_helper(config, "crivisor-spawn", out, size, searched, sizeof(searched)) == 0)
		return 0;
	return err_set(err, -ENOENT, "no crivisor-spawn: looked for in %s", searched);
}

/* ---- what this host can run ---------------------------------------------------------------------------- */

const struct vmm_driver *vmm_driver_find(const char *name)
{
	static const struct vmm_driver *const all[] = {&vmm_driver_cloud_hypervisor, &vmm_driver_qemu};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		if (str_eq(all[i]->name, name))
			return all[i];
	}
	return NULL;
}

/* Finds a whole word in the first "flags" line of /proc/cpuinfo. */
bool cpu_has(const char *cpuinfo, const char *flag)
{
	const char *line = strstr(cpuinfo, "\nflags"), *end, *p;
	size_t len = strlen(flag);

	if (!line)
		return false;
	end = strchrnul(line + 1, '\n');
	for (p = strstr(line, flag); p && p < end; p = strstr(p + 1, flag)) {
		if (p[-1] == ' ' && (p[len] == ' ' || p[len] == '\n' || p[len] == 0))
			return true;
	}
	return false;
}

static bool read_head(const char *path, char *out, size_t size)
{
	int fd CLEANUP_CLOSE = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read_full(fd, out, size - 1);

	out[n > 0 ? n : 0] = 0;
	return n > 0;
}

/*
 * KVM with hardware virtualization. The CPU flags come first: a software KVM opens /dev/kvm on machines
 * without them and runs neither VMM.
 */
static bool kvm_usable(char *why, size_t size)
{
	char cpuinfo[CPUINFO_HEAD];
	int fd;

	if (!read_head("/proc/cpuinfo", cpuinfo, sizeof(cpuinfo)) ||
	    (!cpu_has(cpuinfo, "vmx") && !cpu_has(cpuinfo, "svm"))) {
		snprintf(why, size, "the CPU flags show neither vmx nor svm");
		return false;
	}
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		snprintf(why, size, "/dev/kvm cannot be opened (%s)", strerrordesc_np(errno));
		return false;
	}
	close_fd(fd);
	snprintf(why, size, "KVM virtualizes here");
	return true;
}

/* The configured path belongs to one driver; under "auto" its name tells which. */
static bool path_is_for(const struct vmm_config *config, const struct vmm_driver *driver)
{
	const char *slash = config->path ? strrchr(config->path, '/') : NULL;
	const char *base = slash ? slash + 1 : config->path;

	if (str_empty(config->path))
		return false;
	if (!str_eq(config->driver, "auto"))
		return true;
	return str_starts(base, "qemu") == (driver == &vmm_driver_qemu);
}

int find_driver(const struct vmm_config *config, const struct vmm_driver *driver, char *out, size_t size,
		struct err *err)
{
	const char *name = path_is_for(config, driver) ? config->path : driver->exe;

	if (find_program(name, out, size) == 0)
		return 0;
	return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
			      "the VMM's binary %s is missing or not executable ([hypervisor] path)", name);
}

/* The first line of `path --version`, read from a pipe with a deadline. Empty if it prints none. */
void read_version(const char *path, char *out, size_t size)
{
	char *argv[] = {(char *)(uintptr_t)path, (char *)(uintptr_t) "--version", NULL};
	struct vmm_run run = {.argv = argv, .out = out, .out_size = size};
	char *nl;

	out[0] = 0;
	if (vmm_run(&run, now_monotonic_ns() + 5 * NS_PER_SEC) != 0)
		out[0] = 0;
	nl = strchr(out, '\n');
	if (nl)
		*nl = 0;
}

/* Running the program for every status request would cost too much. */
static void know_version(const char *path, struct vmm_known *known)
{
	struct vmm_file_id now = {0};

	guest_file_id(path, &now);
	if (known->binary.known && guest_same_file(&known->binary.file, &now))
		return;
	read_version(path, known->version, sizeof(known->version));
	known->binary = (struct vmm_file_facts){.known = true, .file = now};
}

static int choose_auto(const struct vmm_config *config, bool kvm, const char *why, struct vmm_choice *c,
		       struct err *err)
{
	struct err ignored = ERR_INIT;
	bool have =
		find_driver(config, &vmm_driver_cloud_hypervisor, c->path, sizeof(c->path), &ignored) == 0;
	int r;

	if (have && kvm) {
		c->driver = vmm_driver_cloud_hypervisor.name;
		snprintf(c->reason, sizeof(c->reason), "auto: cloud-hypervisor is installed and %s", why);
		return 0;
	}
	r = find_driver(config, &vmm_driver_qemu, c->path, sizeof(c->path), err);
	if (r < 0)
		return err_wrap(err, "neither VMM can run here (cloud-hypervisor %s, and %s); qemu",
				have ? "is installed" : "is not installed", why);
	c->driver = vmm_driver_qemu.name;
	if (have)
		snprintf(c->reason, sizeof(c->reason),
			 "auto: qemu with %s, because cloud-hypervisor needs KVM and %s", kvm ? "KVM" : "TCG",
			 why);
	else
		snprintf(c->reason, sizeof(c->reason),
			 "auto: qemu with %s, because cloud-hypervisor is not installed and %s",
			 kvm ? "KVM" : "TCG", why);
	return 0;
}

static int choose_named(const struct vmm_config *config, bool kvm, const char *why, struct vmm_choice *c,
			struct err *err)
{
	const struct vmm_driver *driver = vmm_driver_find(config->driver);
	int r;

	if (!driver)
		return err_set(err, -EINVAL,
			       "unknown VMM driver \"%s\" (known: auto, cloud-hypervisor, qemu) "
			       "([hypervisor] driver)",
			       config->driver);
	r = find_driver(config, driver, c->path, sizeof(c->path), err);
	if (r < 0)
		return r;
	if (driver == &vmm_driver_cloud_hypervisor && !kvm)
		return err_set_status(err, -ENODEV, ERR_FAILED_PRECONDITION,
				      "cloud-hypervisor needs KVM, and %s; driver \"qemu\" runs without it",
				      why);
	c->driver = driver->name;
	snprintf(c->reason, sizeof(c->reason), "configured: %s, with %s: %s", driver->name,
		 kvm ? "KVM" : "TCG", why);
	return 0;
}

int vmm_choose_driver(const struct vmm_config *config, struct vmm_choice *ret_choice, struct err *err)
{
	struct vmm_choice c = {0};
	const struct vmm_driver *driver;
	char why[128];
	bool kvm = kvm_usable(why, sizeof(why));
	bool named = !str_empty(config->driver) && !str_eq(config->driver, "auto");
	int r = named ? choose_named(config, kvm, why, &c, err) : choose_auto(config, kvm, why, &c, err);

	if (r < 0)
		return r;
	driver = vmm_driver_find(c.driver);
	snprintf(c.accel, sizeof(c.accel), "%s", kvm ? "kvm" : "tcg");
	c.caps = driver->caps;
	if (driver == &vmm_driver_qemu && kvm)
		c.caps |= VMM_CAP_HOTPLUG_VFIO;
	c.mtu_max = driver->mtu_max;
	*ret_choice = c;
	return 0;
}

int vmm_choose(const struct vmm_config *config, struct vmm_known *known, struct vmm_choice *ret_choice,
	       struct err *err)
{
	struct vmm_choice c;
	struct vmm_known nothing = {0};
	int r = vmm_choose_driver(config, &c, err);

	if (!known)
		known = &nothing;
	if (r == 0)
		r = guest_kernel_check(config->kernel_path, &known->kernel, err);
	if (r == 0)
		r = guest_image_check(config->image_path, &known->image, err);
	if (r < 0)
		return r;
	know_version(c.path, known);
	snprintf(c.version, sizeof(c.version), "%s", known->version);
	*ret_choice = c;
	return 0;
}

int vmm_check_kernel(const struct vmm_config *config, struct err *err)
{
	struct vmm_file_facts facts = {0};

	return guest_kernel_check(config->kernel_path, &facts, err);
}

int vmm_check_image(const struct vmm_config *config, struct err *err)
{
	struct vmm_file_facts facts = {0};

	return guest_image_check(config->image_path, &facts, err);
}
