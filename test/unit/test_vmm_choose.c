/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host can run: which driver is chosen, and whether guest kernel and image are usable, with files made
 * for the test.
 */
#include "base/util.h"
#include "vmm/driver_internal.h"
#include "vmm/guest_files_internal.h"

#include <elf.h>
#include <endian.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>

#define PART	(2 << 20)
#define SB	(PART + 1024)
#define IMG_LEN (6 << 20)

struct fixture {
	char dir[64], kernel[96], image[96], sums[96];
	unsigned char img[IMG_LEN];
	struct {
		Elf64_Ehdr eh;
		Elf64_Phdr ph[2];
		Elf64_Nhdr note;
		char name[4];
		uint32_t entry;
		char text[64];
	} elf;
	struct vmm_config config;
	struct err err;
};

static void put(const char *path, const void *data, size_t len)
{
	assert_int_equal(write_file_atomic(path, data, len, 0600, false), 0);
}

static void put_le32(unsigned char *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-choose-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->kernel, sizeof(f->kernel), "%s/vmlinux", f->dir);
	snprintf(f->image, sizeof(f->image), "%s/guest.img", f->dir);
	snprintf(f->sums, sizeof(f->sums), "%s/SHA256SUMS", f->dir);
	memcpy(f->elf.eh.e_ident, ELFMAG, SELFMAG);
	f->elf.eh.e_ident[EI_CLASS] = ELFCLASS64;
	f->elf.eh.e_ident[EI_DATA] = ELFDATA2LSB;
	f->elf.eh.e_machine = EM_X86_64;
	f->elf.eh.e_phoff = sizeof(f->elf.eh);
	f->elf.eh.e_phentsize = sizeof(f->elf.ph[0]);
	f->elf.eh.e_phnum = 2;
	f->elf.ph[0] = (Elf64_Phdr){
		.p_type = PT_LOAD, .p_offset = offsetof(__typeof__(f->elf), text), .p_filesz = 64};
	f->elf.ph[1] = (Elf64_Phdr){.p_type = PT_NOTE,
				    .p_offset = offsetof(__typeof__(f->elf), note),
				    .p_filesz = sizeof(Elf64_Nhdr) + 8};
	f->elf.note = (Elf64_Nhdr){.n_namesz = 4, .n_descsz = 4, .n_type = 18};
	memcpy(f->elf.name, "Xen", 4);
	f->img[510] = 0x55;
	f->img[511] = 0xaa;
	put_le32(f->img + 446 + 8, PART / 512);
	put_le32(f->img + 446 + 12, (IMG_LEN - PART) / 512);
	put_le32(f->img + SB + 0x4, (IMG_LEN - PART) / 4096);
	put_le32(f->img + SB + 0x18, 2);
	f->img[SB + 0x38] = 0x53;
	f->img[SB + 0x39] = 0xef;
	put_le32(f->img + SB + 0x5c, 0x4);
	put(f->kernel, &f->elf, sizeof(f->elf));
	put(f->image, f->img, sizeof(f->img));
	f->config.driver = (char *)(uintptr_t) "qemu";
	f->config.path = (char *)(uintptr_t)CRV_SOURCE_DIR "/test/fake/fake_qmp.py";
	f->config.kernel_path = f->kernel;
	f->config.image_path = f->image;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
	return 0;
}

static void kernel_is(struct fixture *f, int code, const char *words)
{
	struct vmm_file_facts facts = {0};

	f->err = ERR_INIT;
	assert_int_equal(guest_kernel_check(f->kernel, &facts, &f->err), code);
	assert_true(!words || strstr(f->err.msg, words));
	assert_true(!words || strstr(f->err.msg, f->kernel));
}

static void image_is(struct fixture *f, int code, const char *words)
{
	struct vmm_file_facts facts = {0};

	f->err = ERR_INIT;
	assert_int_equal(guest_image_check(f->image, &facts, &f->err), code);
	assert_true(!words || strstr(f->err.msg, words));
	assert_true(!words || strstr(f->err.msg, f->image));
}

static void kernel_check_tells_what_is_wrong(void **state)
{
	struct fixture *f = *state;
	unsigned char bz[1024] = {0};

	kernel_is(f, 0, NULL);
	put(f->kernel, &f->elf, offsetof(__typeof__(f->elf), text) + 63);
	kernel_is(f, -ENOEXEC, "cut short");
	f->elf.note.n_type = 17;
	put(f->kernel, &f->elf, sizeof(f->elf));
	kernel_is(f, -ENOEXEC, "PVH");
	f->elf.note = (Elf64_Nhdr){.n_namesz = UINT32_MAX, .n_descsz = UINT32_MAX, .n_type = 18};
	put(f->kernel, &f->elf, sizeof(f->elf));
	kernel_is(f, -ENOEXEC, "PVH");
	f->elf.eh.e_phnum = UINT16_MAX;
	put(f->kernel, &f->elf, sizeof(f->elf));
	kernel_is(f, -ENOEXEC, "program headers");
	f->elf.eh.e_machine = EM_AARCH64;
	put(f->kernel, &f->elf, sizeof(f->elf));
	kernel_is(f, -ENOEXEC, "x86-64");
	put(f->kernel, "", 0);
	kernel_is(f, -ENOEXEC, "neither");
	bz[0x1fe] = 0x55;
	bz[0x1ff] = 0xaa;
	memcpy(bz + 0x202, "HdrS", 4);
	put(f->kernel, bz, sizeof(bz));
	kernel_is(f, 0, NULL);
	put(f->kernel, bz, 0x205);
	kernel_is(f, -ENOEXEC, "neither");
	assert_int_equal(unlink(f->kernel), 0);
	kernel_is(f, -ENOENT, "kernel_path");
	assert_int_equal(mkdir(f->kernel, 0700), 0);
	kernel_is(f, -EINVAL, "regular");
}

static void image_check_tells_what_is_wrong(void **state)
{
	struct fixture *f = *state;

	image_is(f, 0, NULL);
	put(f->image, f->img, IMG_LEN - 4096);
	image_is(f, -EUCLEAN, "cut short");
	put(f->image, f->img, 100);
	image_is(f, -EUCLEAN, "partition table");
	put_le32(f->img + SB + 0x5c, 0);
	put(f->image, f->img, IMG_LEN);
	image_is(f, -EUCLEAN, "journal");
	put_le32(f->img + SB + 0x4, UINT32_MAX);
	put(f->image, f->img, IMG_LEN);
	image_is(f, -EUCLEAN, "damaged");
	f->img[SB + 0x38] = 0;
	put(f->image, f->img, IMG_LEN);
	image_is(f, -EUCLEAN, "no ext4");
	put_le32(f->img + 446 + 8, UINT32_MAX);
	put_le32(f->img + 446 + 12, UINT32_MAX);
	put(f->image, f->img, IMG_LEN);
	image_is(f, -EUCLEAN, "beyond its end");
}

static void sums_find_a_damaged_byte(void **state)
{
	static const char zeros[] =
		"0000000000000000000000000000000000000000000000000000000000000000  guest.img\n";
	struct fixture *f = *state;
	char command[512];

	/* As coreutils write them. */
	snprintf(command, sizeof(command), "cd '%s' && sha256sum vmlinux guest.img >SHA256SUMS", f->dir);
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
	kernel_is(f, 0, NULL);
	image_is(f, 0, NULL);
	f->img[IMG_LEN - 1] ^= 1;
	put(f->image, f->img, IMG_LEN);
	image_is(f, -EUCLEAN, "damaged: its SHA-256");
	assert_non_null(strstr(f->err.msg, f->sums));
	kernel_is(f, 0, NULL);
	/* Lines for other files, and malformed ones, do not count. */
	put(f->sums, "guest.img\n\n0 guest.img\n", 23);
	image_is(f, 0, NULL);
	put(f->sums, zeros, sizeof(zeros) - 1);
	image_is(f, -EUCLEAN, "000000000000");
	kernel_is(f, 0, NULL);
}

static void facts_hold_until_a_file_changes(void **state)
{
	struct fixture *f = *state;
	struct vmm_file_facts facts = {0};
	struct vmm_file_id before;

	assert_int_equal(guest_image_check(f->image, &facts, &f->err), 0);
	before = facts.file;
	facts.code = -EUCLEAN; /* a second look at the file would find it */
	assert_int_equal(guest_image_check(f->image, &facts, &f->err), -EUCLEAN);
	put(f->image, f->img, IMG_LEN);
	assert_int_equal(guest_image_check(f->image, &facts, &f->err), 0);
	assert_false(guest_same_file(&before, &facts.file));
	put(f->sums, "x\n", 2);
	facts.code = -EUCLEAN;
	assert_int_equal(guest_image_check(f->image, &facts, &f->err), 0);
}

static void choose_names_what_is_missing(void **state)
{
	struct fixture *f = *state;
	struct vmm_config *config = &f->config;
	struct vmm_choice choice;

	config->driver = (char *)(uintptr_t) "bochs";
	assert_int_equal(vmm_choose(config, NULL, &choice, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.msg, "bochs"));
	config->driver = (char *)(uintptr_t) "qemu";
	config->path = (char *)(uintptr_t) "/nonexistent/qemu";
	assert_int_equal(vmm_choose(config, NULL, &choice, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.msg, "/nonexistent/qemu"));
	config->path = (char *)(uintptr_t) "/bin/sh";
	config->kernel_path = NULL;
	assert_int_equal(vmm_choose(config, NULL, &choice, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.msg, "kernel_path"));
	config->kernel_path = (char *)(uintptr_t) "/nonexistent/k";
	assert_int_equal(vmm_choose(config, NULL, &choice, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.msg, "/nonexistent/k"));
	config->kernel_path = f->kernel;
	config->image_path = (char *)(uintptr_t) "/";
	assert_int_equal(vmm_choose(config, NULL, &choice, &f->err), -EINVAL);
}

static void choose_finds_the_program_and_says_why(void **state)
{
	struct fixture *f = *state;
	struct vmm_known known = {0};
	struct vmm_choice choice;

	if (vmm_choose(&f->config, &known, &choice, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	assert_string_equal(choice.driver, "qemu");
	assert_string_equal(choice.version, "QEMU emulator version 7.2.22 (a fake)");
	assert_true(choice.caps & VMM_CAP_HOTPLUG_DISK);
	assert_true(choice.reason[0] && choice.accel[0] && choice.mtu_max >= 9000);
	/* The program is not run again for its version. */
	snprintf(known.version, sizeof(known.version), "as it was");
	assert_int_equal(vmm_choose(&f->config, &known, &choice, &f->err), 0);
	assert_string_equal(choice.version, "as it was");
}

static void choose_sees_a_fixed_file(void **state)
{
	struct fixture *f = *state;
	struct vmm_known known = {0};
	struct vmm_choice choice;

	put(f->kernel, "no kernel", 9);
	assert_int_equal(vmm_choose(&f->config, &known, &choice, &f->err), -ENOEXEC);
	assert_int_equal(f->err.status, ERR_FAILED_PRECONDITION);
	put(f->kernel, &f->elf, sizeof(f->elf));
	assert_int_equal(vmm_choose(&f->config, &known, &choice, &f->err), 0);
	assert_int_equal(unlink(f->image), 0);
	assert_int_equal(vmm_choose(&f->config, &known, &choice, &f->err), -ENOENT);
}

static void run_that_closes_its_output_and_stays_is_ended(void **state)
{
	char sh[] = "/bin/sh", c[] = "-c", script[] = "echo 1; exec >&- sleep 60";
	char *argv[] = {sh, c, script, NULL};
	char out[16];
	struct vmm_run run = {.argv = argv, .out = out, .out_size = sizeof(out)};
	int64_t begin = now_monotonic_ns();

	(void)state;
	assert_int_equal(vmm_run(&run, begin + NS_PER_SEC / 2), -ETIMEDOUT);
	assert_string_equal(out, "1\n");
	assert_true(now_monotonic_ns() - begin < 30 * NS_PER_SEC);
}

static void helper_is_found_where_setup_puts_it_and_a_missing_one_names_the_places(void **state)
{
	struct fixture *f = *state;
	const char *path_env = getenv("PATH");
	char *old CLEANUP_FREE = strdup(path_env ? path_env : "");
	char file[128], out[512];

	f->config.helper_dir = f->dir;
	assert_int_equal(setenv("PATH", "/nonexistent", 1), 0);
	assert_int_equal(vsock_daemon_find(&f->config, out, sizeof(out), &f->err), -ENOENT);
	assert_non_null(strstr(f->err.msg, f->dir));
	assert_non_null(strstr(f->err.msg, "/libexec/crivisor, PATH and "));
	snprintf(file, sizeof(file), "%s/vhost-device-vsock", f->dir);
	put(file, "", 0);
	assert_int_equal(vsock_daemon_find(&f->config, out, sizeof(out), &f->err), -ENOENT);
	assert_int_equal(chmod(file, 0755), 0);
	assert_int_equal(vsock_daemon_find(&f->config, out, sizeof(out), &f->err), 0);
	assert_string_equal(out, file);
	f->config.helper_dir = NULL;
	setenv("PATH", old, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(kernel_check_tells_what_is_wrong),
		T(image_check_tells_what_is_wrong),
		T(sums_find_a_damaged_byte),
		T(facts_hold_until_a_file_changes),
		T(choose_names_what_is_missing),
		T(choose_finds_the_program_and_says_why),
		T(choose_sees_a_fixed_file),
		T(run_that_closes_its_output_and_stays_is_ended),
		T(helper_is_found_where_setup_puts_it_and_a_missing_one_names_the_places),
	};

	return cmocka_run_group_tests_name("vmm_choose", tests, NULL, NULL);
}
