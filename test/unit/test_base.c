/* SPDX-License-Identifier: Apache-2.0 */
/* The base library: errors, strings, files, buffers, log lines. */
#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"
#include "base/tree.h"
#include "base/util.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void err_set_status_follows_from_errno(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(err_set(&err, -ENOENT, "no %s", "thing"), -ENOENT);
	assert_int_equal(err.status, ERR_NOT_FOUND);
	assert_string_equal(err.msg, "no thing");
	assert_int_equal(err_set_status(&err, -EIO, ERR_DATA_LOSS, "x"), -EIO);
	assert_int_equal(err.status, ERR_DATA_LOSS);
	assert_int_equal(err_set(NULL, -EIO, "nobody asks"), -EIO);
}

static void err_wrap_puts_context_in_front(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_set_errno(&err, -ENOENT, "opening %s", "/x");
	assert_int_equal(err_wrap(&err, "starting %d", 7), -ENOENT);
	assert_string_equal(err.msg, "starting 7: opening /x: No such file or directory");
	assert_int_equal(err.status, ERR_NOT_FOUND);
}

static void err_set_overlong_message_is_cut_on_a_character(void **state)
{
	struct err err = ERR_INIT;
	char text[3 * ERR_MSG_MAX];

	(void)state;
	for (size_t i = 0; i + 2 < sizeof(text); i += 2)
		memcpy(text + i, "\xc3\xa9", 2);
	text[sizeof(text) - 1] = text[sizeof(text) - 2] = 0;
	err_set(&err, -EIO, "%s", text);
	assert_true(strlen(err.msg) < ERR_MSG_MAX);
	assert_true(utf8_valid(err.msg, strlen(err.msg)));
	assert_true(str_ends(err.msg, "\xe2\x80\xa6"));
	err_wrap(&err, "again");
	assert_true(utf8_valid(err.msg, strlen(err.msg)));
}

static void parse_u64_takes_digits_only(void **state)
{
	uint64_t v = 1;

	(void)state;
	assert_int_equal(parse_u64("18446744073709551615", &v), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(parse_u64("18446744073709551616", &v), -ERANGE);
	assert_int_equal(parse_u64("", &v), -EINVAL);
	assert_int_equal(parse_u64("-1", &v), -EINVAL);
	assert_int_equal(parse_u64("1 ", &v), -EINVAL);
}

static void utf8_valid_refuses_what_rfc3629_does(void **state)
{
	(void)state;
	assert_true(utf8_valid("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
	assert_false(utf8_valid("\xc0\x80", 2));	 /* overlong NUL */
	assert_false(utf8_valid("\xed\xa0\x80", 3));	 /* surrogate */
	assert_false(utf8_valid("\xf4\x90\x80\x80", 4)); /* beyond U+10FFFF */
	assert_false(utf8_valid("\xe2\x82", 2));	 /* cut */
	assert_false(utf8_valid("a\0b", 3));
}

static void strv_add_grows_and_frees(void **state)
{
	char **v CLEANUP_STRV = NULL;

	(void)state;
	assert_int_equal(strv_len(v), 0);
	assert_int_equal(strv_add(&v, "a"), 0);
	assert_int_equal(strv_addf(&v, "%d", 42), 0);
	assert_int_equal(strv_len(v), 2);
	assert_string_equal(v[1], "42");
	assert_null(v[2]);
}

static char *make_dir(void)
{
	char *dir = strdup("/tmp/crv-base-XXXXXX");

	assert_non_null(mkdtemp(dir));
	return dir;
}

static void write_file_atomic_replaces_and_leaves_nothing_behind(void **state)
{
	char *dir CLEANUP_FREE = make_dir();
	char *path CLEANUP_FREE = xasprintf("%s/a/b/f", dir);
	char *sub CLEANUP_FREE = xasprintf("%s/a/b", dir);
	char *data CLEANUP_FREE = NULL;
	size_t len;

	(void)state;
	assert_int_equal(mkdir_p(sub, 0755), 0);
	assert_int_equal(mkdir_p(sub, 0755), 0);
	assert_int_equal(write_file_atomic(path, "one", 3, 0600, true), 0);
	assert_int_equal(write_file_atomic(path, "three", 5, 0600, false), 0);
	assert_int_equal(read_file(path, 100, &data, &len), 0);
	assert_int_equal(len, 5);
	assert_string_equal(data, "three");
	free(move_ptr(data));
	assert_int_equal(read_file(path, 4, &data, &len), -EFBIG);
	assert_int_equal(mkdir_p(path, 0755), -ENOTDIR);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(sub), 0); /* no temporary file was left */
	assert_int_equal(remove_tree(dir), 0);
	assert_int_equal(remove_tree(dir), 0);
}

static void remove_unfinished_takes_what_a_killed_writer_left_and_nothing_else(void **state)
{
	static const char *const kept[] = {"f",
					   "f.tmp.",
					   "f.tmp.0123456789abcde",
					   "f.tmp.0123456789abcdeg",
					   ".tmp.0123456789abcdef",
					   "f.tmp.0123456789abcdef.json"};
	char *dir CLEANUP_FREE = make_dir();
	char *gone CLEANUP_FREE = xasprintf("%s/f.json.tmp.0123456789abcdef", dir);

	(void)state;
	assert_int_equal(write_file(gone, "x", 1, 0600), 0);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		char *path CLEANUP_FREE = xasprintf("%s/%s", dir, kept[i]);

		assert_int_equal(write_file(path, "x", 1, 0600), 0);
	}
	assert_int_equal(remove_unfinished(dir), 0);
	assert_int_equal(access(gone, F_OK), -1);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		char *path CLEANUP_FREE = xasprintf("%s/%s", dir, kept[i]);

		assert_int_equal(access(path, F_OK), 0);
	}
	assert_int_equal(remove_tree(dir), 0);
	assert_int_equal(remove_unfinished(dir), 0);
}

/* Moves chains that are deeper than a removal goes at once into the tree, for ever. */
static void keep_writing(const char *tree, const char *outside)
{
	for (unsigned int i = 0;; i++) {
		char name[160], to[160];

		snprintf(name, sizeof(name), "%s/%d.%u", outside, getpid(), i);
		snprintf(to, sizeof(to), "%s/%d.%u", tree, getpid(), i);
		if (mkdir(name, 0755) < 0 || chdir(name) < 0)
			_exit(1);
		for (int depth = 0; depth < 80; depth++) {
			if (mkdir("d", 0755) < 0 || chdir("d") < 0)
				_exit(1);
		}
		if (chdir("/") < 0 || (rename(name, to) < 0 && errno != ENOENT))
			_exit(1);
	}
}

/* Fault H: a removal ends within the time given, also of a tree that others go on to write in. */
static void remove_tree_until_with_writers_ends_in_time(void **state)
{
	char *tree CLEANUP_FREE = make_dir();
	char *outside CLEANUP_FREE = make_dir();
	pid_t writers[3];
	int64_t begin_ns;
	int r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(writers); i++) {
		writers[i] = fork();
		assert_true(writers[i] >= 0);
		if (writers[i] == 0)
			keep_writing(tree, outside);
	}
	usleep(300000);
	assert_int_equal(remove_tree_until(AT_FDCWD, tree, now_monotonic_ns()), -EBUSY);
	begin_ns = now_monotonic_ns();
	r = remove_tree_until(AT_FDCWD, tree, begin_ns + 500 * NS_PER_MS);
	assert_true(r == 0 || r == -EBUSY);
	assert_true(now_monotonic_ns() - begin_ns < 3 * NS_PER_SEC);
	for (size_t i = 0; i < ARRAY_SIZE(writers); i++) {
		assert_int_equal(kill(writers[i], SIGKILL), 0);
		assert_int_equal(waitpid(writers[i], NULL, 0), writers[i]);
	}
	assert_int_equal(remove_tree(tree), 0);
	assert_int_equal(remove_tree(outside), 0);
}

static void remove_tree_follows_no_symlink(void **state)
{
	char *dir CLEANUP_FREE = make_dir();
	char *other CLEANUP_FREE = make_dir();
	char *link CLEANUP_FREE = xasprintf("%s/link", dir);
	char *kept CLEANUP_FREE = xasprintf("%s/kept", other);

	(void)state;
	assert_int_equal(write_file(kept, "x", 1, 0600), 0);
	assert_int_equal(symlink(other, link), 0);
	assert_int_equal(remove_tree(dir), 0);
	assert_int_equal(access(kept, F_OK), 0);
	assert_int_equal(remove_tree(other), 0);
}

static void remove_tree_stops_at_a_bind_mount_of_the_same_file_system(void **state)
{
	char *dir CLEANUP_FREE = make_dir();
	char *other CLEANUP_FREE = make_dir();
	char *sub CLEANUP_FREE = xasprintf("%s/sub", dir);
	char *kept CLEANUP_FREE = xasprintf("%s/kept", other);

	(void)state;
	assert_int_equal(write_file(kept, "x", 1, 0600), 0);
	assert_int_equal(mkdir(sub, 0755), 0);
	assert_int_equal(mount(other, sub, NULL, MS_BIND, NULL), 0);
	assert_int_equal(remove_tree(dir), -EXDEV);
	assert_int_equal(access(kept, F_OK), 0);
	assert_int_equal(umount2(sub, MNT_DETACH), 0);
	assert_int_equal(remove_tree(dir), 0);
	assert_int_equal(remove_tree(other), 0);
}

static void remove_tree_stops_at_a_file_that_is_mounted_on(void **state)
{
	char *dir CLEANUP_FREE = make_dir();
	char *file CLEANUP_FREE = xasprintf("%s/file", dir);

	(void)state;
	assert_int_equal(write_file(file, "x", 1, 0600), 0);
	assert_int_equal(mount("/dev/null", file, NULL, MS_BIND, NULL), 0);
	assert_int_equal(remove_tree(dir), -EXDEV);
	assert_int_equal(umount(file), 0);
	assert_int_equal(remove_tree(dir), 0);
}

static void remove_tree_removes_more_levels_than_it_holds_descriptors(void **state)
{
	char *dir CLEANUP_FREE = make_dir();
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)state;
	for (int i = 0; i < 1000; i++) {
		int next;

		assert_int_equal(mkdirat(fd, "d", 0700), 0);
		next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close_fd(fd);
		fd = next;
	}
	close_fd(fd);
	assert_int_equal(remove_tree(dir), 0);
	assert_int_equal(access(dir, F_OK), -1);
}

static void buf_put_beyond_its_cap_is_refused_and_changes_nothing(void **state)
{
	struct buf b = {.max = 8};

	(void)state;
	assert_int_equal(buf_put(&b, "12345", 5), 0);
	assert_int_equal(buf_put(&b, "6789", 4), -ENOBUFS);
	assert_int_equal(b.len, 5);
	buf_consume(&b, 2);
	assert_int_equal(buf_put(&b, "67890", 5), 0);
	assert_memory_equal(buf_data(&b), "34567890", 8);
	buf_consume(&b, 100);
	assert_int_equal(b.len, 0);
	buf_done(&b);
}

static void buf_keeps_order_over_many_sizes(void **state)
{
	struct buf b = {0};
	unsigned char in = 0, out = 0;

	(void)state;
	for (size_t i = 1; i < 400; i++) {
		for (size_t k = 0; k < i * 7 % 97; k++, in++)
			assert_int_equal(buf_put(&b, &in, 1), 0);
		for (size_t k = 0; k < i * 5 % 89 && b.len > 0; k++, out++) {
			assert_int_equal(*buf_data(&b), out);
			buf_consume(&b, 1);
		}
	}
	buf_done(&b);
}

static char last_line[LOG_LINE_MAX + 1];

static void keep_line(enum log_level level, const char *line, size_t len)
{
	(void)level;
	memcpy(last_line, line, len);
	last_line[len] = 0;
}

static void log_line_hostile_value_cannot_forge_a_line(void **state)
{
	(void)state;
	log_set_sink(keep_line);
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", "a\nlevel=error msg=forged", "none", NULL, "plain", "x/1"),
		 "said \"%s\"", "hi\x1b[31m");
	assert_string_equal(
		last_line,
		"level=info msg=\"said \\\"hi\\x1b[31m\\\"\" pod=\"a\\nlevel=error msg=forged\" plain=x/1");
	last_line[0] = 0;
	log_debug("not at this level");
	assert_string_equal(last_line, "");
	log_set_sink(NULL);
}

static void find_program_takes_the_first_in_path_that_can_be_run(void **state)
{
	char dir[] = "/tmp/crvtest-base-XXXXXX", path[128], want[64], out[64];
	char *saved CLEANUP_FREE = strdup(getenv("PATH"));

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/plain", dir);
	assert_int_equal(write_file(path, "", 0, 0644), 0);
	snprintf(path, sizeof(path), "%s/sub/tool", dir);
	assert_int_equal(mkdir_p(path, 0755), 0); /* a directory is no program */
	snprintf(want, sizeof(want), "%s/tool", dir);
	assert_int_equal(write_file(want, "", 0, 0755), 0);
	snprintf(path, sizeof(path), "/nonexistent::%s/sub:%s", dir, dir);
	setenv("PATH", path, 1);
	assert_int_equal(find_program("tool", out, sizeof(out)), 0);
	assert_string_equal(out, want);
	assert_int_equal(find_program("plain", out, sizeof(out)), -ENOENT);
	assert_int_equal(find_program("tool", out, 4), -ENOENT);
	assert_int_equal(find_program(want, out, sizeof(out)), 0);
	assert_int_equal(find_program(want, out, 4), -ENAMETOOLONG);
	setenv("PATH", "", 1);
	assert_int_equal(find_program("sh", out, sizeof(out)), 0);
	setenv("PATH", saved, 1);
	assert_int_equal(remove_tree(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(err_set_status_follows_from_errno),
		cmocka_unit_test(err_wrap_puts_context_in_front),
		cmocka_unit_test(err_set_overlong_message_is_cut_on_a_character),
		cmocka_unit_test(parse_u64_takes_digits_only),
		cmocka_unit_test(utf8_valid_refuses_what_rfc3629_does),
		cmocka_unit_test(strv_add_grows_and_frees),
		cmocka_unit_test(write_file_atomic_replaces_and_leaves_nothing_behind),
		cmocka_unit_test(remove_unfinished_takes_what_a_killed_writer_left_and_nothing_else),
		cmocka_unit_test(remove_tree_until_with_writers_ends_in_time),
		cmocka_unit_test(remove_tree_follows_no_symlink),
		cmocka_unit_test(remove_tree_stops_at_a_bind_mount_of_the_same_file_system),
		cmocka_unit_test(remove_tree_stops_at_a_file_that_is_mounted_on),
		cmocka_unit_test(remove_tree_removes_more_levels_than_it_holds_descriptors),
		cmocka_unit_test(find_program_takes_the_first_in_path_that_can_be_run),
		cmocka_unit_test(buf_put_beyond_its_cap_is_refused_and_changes_nothing),
		cmocka_unit_test(buf_keeps_order_over_many_sizes),
		cmocka_unit_test(log_line_hostile_value_cannot_forge_a_line),
	};

	/* Mounts of this test stay in a mount namespace of its own. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
