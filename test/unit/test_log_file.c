/* SPDX-License-Identifier: Apache-2.0 */
/* The log of a container: format, splitting, and exactly once across a kill. */
#include "base/util.h"
#include "cri/logs/file_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/stat.h>

struct ctx {
	char dir[64];
	char log[128], pos[128];
};

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof(*c));

	strcpy(c->dir, "/tmp/crv-log-XXXXXX");
	if (!mkdtemp(c->dir))
		return -1;
	snprintf(c->log, sizeof(c->log), "%s/pod/ctr/0.log", c->dir);
	snprintf(c->pos, sizeof(c->pos), "%s/0.pos", c->dir);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	remove_tree(c->dir);
	free(c);
	return 0;
}

static struct log_file *open_at(struct ctx *c, bool resume, uint64_t *offset)
{
	struct log_file *f = NULL;
	struct err err = ERR_INIT;

	if (log_file_open(c->log, c->pos, resume, &f, offset, &err) < 0)
		fail_msg("%s", err.msg);
	return f;
}

static void put(struct log_file *f, bool is_stderr, const char *text)
{
	struct log_record rec = {.is_stderr = is_stderr, .data = text, .len = strlen(text)};

	assert_int_equal(log_file_write(f, &rec, 1, NULL), 0);
	assert_int_equal(log_file_save(f, NULL), 0);
}

/* The log without its time stamps, which are checked on the way. */
static char *lines(const char *path)
{
	char *data = NULL;
	size_t len;
	char *out, *w;

	assert_int_equal(read_file(path, 64 << 20, &data, &len), 0);
	out = w = calloc(1, len + 1);
	for (char *p = data; *p;) {
		char *nl = strchr(p, '\n');
		char *space = strchr(p, ' ');

		assert_non_null(nl);
		assert_non_null(space);
		assert_int_equal(space - p, strlen("2026-01-02T03:04:05.123456789Z"));
		assert_int_equal(space[-1], 'Z');
		memcpy(w, space + 1, (size_t)(nl - space));
		w += nl - space;
		p = nl + 1;
	}
	free(data);
	return out;
}

static void assert_log(struct ctx *c, const char *want)
{
	char *have = lines(c->log);

	assert_string_equal(have, want);
	free(have);
}

static void log_file_write_lines_become_full_entries(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);

	assert_int_equal(offset, 0);
	put(f, false, "one\ntwo\n\n");
	put(f, true, "oops\n");
	assert_int_equal(log_file_offset(f), 14);
	assert_log(c, "stdout F one\nstdout F two\nstdout F \nstderr F oops\n");
	log_file_close(f);
}

static void log_file_write_pieces_of_a_line_are_joined_per_stream(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);

	put(f, false, "he");
	put(f, true, "er");
	put(f, false, "llo\n");
	put(f, true, "r\nrest");
	assert_int_equal(log_file_finish(f, NULL), 0);
	assert_int_equal(log_file_save(f, NULL), 0);
	assert_log(c, "stdout F hello\nstderr F err\nstderr P rest\n");
	log_file_close(f);
}

static void log_file_write_long_line_is_split_at_the_limit(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);
	char *text = calloc(1, 3 * LOG_LINE_BYTES);
	char *have;

	memset(text, 'a', LOG_LINE_BYTES);
	strcat(text, "\n"); /* exactly the limit: one full entry */
	put(f, false, text);
	memset(text, 'b', 2 * LOG_LINE_BYTES + 5);
	text[2 * LOG_LINE_BYTES + 5] = 0;
	put(f, false, text);
	put(f, false, "\n");
	have = lines(c->log);
	assert_memory_equal(have, "stdout F aaa", 12);
	assert_memory_equal(have + 9 + LOG_LINE_BYTES, "\nstdout P bbb", 13);
	assert_memory_equal(have + 2 * (10 + LOG_LINE_BYTES) - 1, "\nstdout P bbb", 13);
	assert_string_equal(have + 3 * (10 + LOG_LINE_BYTES), "stdout F bbbbb\n");
	free(have);
	free(text);
	log_file_close(f);
}

static void log_file_open_resume_cuts_what_was_not_remembered(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);
	int fd;

	put(f, false, "kept\nhal");
	log_file_close(f);
	/* A server killed between the two writes leaves lines that the position does not cover. */
	fd = open(c->log, O_WRONLY | O_APPEND);
	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, "2026-01-02T03:04:05.123456789Z stdout F half\n", 45), 0);
	close(fd);
	f = open_at(c, true, &offset);
	assert_int_equal(offset, 8);
	put(f, false, "f\nnext\n");
	assert_log(c, "stdout F kept\nstdout F half\nstdout F next\n");
	log_file_close(f);
}

static void log_file_open_resume_torn_slot_falls_back_to_the_one_before(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);
	int fd = open(c->pos, O_RDWR);

	put(f, false, "one\n"); /* seq 2: slot 0 */
	put(f, false, "two\n"); /* seq 3: slot 1 */
	log_file_close(f);
	assert_int_equal(pwrite(fd, "garbage", 7, 65536 + 24), 7);
	close(fd);
	f = open_at(c, true, &offset);
	assert_int_equal(offset, 4);
	put(f, false, "two\n");
	assert_log(c, "stdout F one\nstdout F two\n");
	log_file_close(f);
}

static void log_file_open_resume_after_rotation_cuts_the_renamed_file(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);
	char old[160];
	char *have;
	int fd;

	put(f, false, "one\n");
	log_file_close(f);
	fd = open(c->log, O_WRONLY | O_APPEND);
	assert_int_equal(write_full(fd, "2026-01-02T03:04:05.123456789Z stdout F two\n", 44), 0);
	close(fd);
	snprintf(old, sizeof(old), "%s.20260102", c->log);
	assert_int_equal(rename(c->log, old), 0);
	f = open_at(c, true, &offset);
	assert_int_equal(offset, 4);
	put(f, false, "two\n");
	assert_log(c, "stdout F two\n");
	have = lines(old);
	assert_string_equal(have, "stdout F one\n");
	free(have);
	log_file_close(f);
}

static void log_file_reopen_new_file_goes_on(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);
	char old[160];
	char *have;

	put(f, false, "one\ntw");
	snprintf(old, sizeof(old), "%s.1", c->log);
	assert_int_equal(rename(c->log, old), 0);
	assert_int_equal(log_file_reopen(f, NULL), 0);
	assert_int_equal(access(c->log, F_OK), 0);
	put(f, false, "o\n");
	assert_log(c, "stdout F two\n");
	have = lines(old);
	assert_string_equal(have, "stdout F one\n");
	free(have);
	log_file_close(f);
}

static void log_file_reopen_failure_keeps_the_old_file(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = open_at(c, false, &offset);
	struct err err = ERR_INIT;
	char old[160];
	char *have;

	put(f, false, "one\n");
	snprintf(old, sizeof(old), "%s.1", c->log);
	assert_int_equal(rename(c->log, old), 0);
	assert_int_equal(mkdir(c->log, 0755), 0); /* something else stands in the way */
	assert_true(log_file_reopen(f, &err) < 0);
	assert_non_null(strstr(err.msg, c->log));
	put(f, false, "two\n");
	have = lines(old);
	assert_string_equal(have, "stdout F one\nstdout F two\n");
	free(have);
	log_file_close(f);
}

static void log_file_write_full_disk_keeps_everything_for_the_next_try(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = NULL;
	struct log_record rec = {.data = "x\n", .len = 2};

	assert_int_equal(log_file_open("/dev/full", c->pos, false, &f, &offset, NULL), 0);
	assert_int_equal(log_file_write(f, &rec, 1, NULL), -ENOSPC);
	assert_int_equal(log_file_offset(f), 0);
	log_file_close(f);
}

static void log_file_open_no_path_counts_and_drops(void **state)
{
	struct ctx *c = *state;
	uint64_t offset;
	struct log_file *f = NULL;

	assert_int_equal(log_file_open("", c->pos, false, &f, &offset, NULL), 0);
	put(f, false, "gone\n");
	assert_int_equal(log_file_offset(f), 5);
	assert_int_equal(log_file_reopen(f, NULL), 0);
	log_file_close(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(log_file_write_lines_become_full_entries, setup, teardown),
		cmocka_unit_test_setup_teardown(log_file_write_pieces_of_a_line_are_joined_per_stream, setup,
						teardown),
		cmocka_unit_test_setup_teardown(log_file_write_long_line_is_split_at_the_limit, setup,
						teardown),
		cmocka_unit_test_setup_teardown(log_file_open_resume_cuts_what_was_not_remembered, setup,
						teardown),
		cmocka_unit_test_setup_teardown(log_file_open_resume_torn_slot_falls_back_to_the_one_before,
						setup, teardown),
		cmocka_unit_test_setup_teardown(log_file_open_resume_after_rotation_cuts_the_renamed_file,
						setup, teardown),
		cmocka_unit_test_setup_teardown(log_file_reopen_new_file_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(log_file_reopen_failure_keeps_the_old_file, setup, teardown),
		cmocka_unit_test_setup_teardown(log_file_write_full_disk_keeps_everything_for_the_next_try,
						setup, teardown),
		cmocka_unit_test_setup_teardown(log_file_open_no_path_counts_and_drops, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
