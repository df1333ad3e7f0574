/* SPDX-License-Identifier: Apache-2.0 */
/* Words of others made fit for one line of UTF-8 or ASCII. */
#include "base/text.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void text_is_line_refuses_control_characters(void **state)
{
	(void)state;
	assert_true(text_is_line(""));
	assert_true(text_is_line("two words \xc3\xa9"));
	assert_false(text_is_line("two\nlines"));
	assert_false(text_is_line("\x1b[31m"));
	assert_false(text_is_line("del\x7f"));
	assert_true(text_is_word("word\xc3\xa9"));
	assert_false(text_is_word(""));
	assert_false(text_is_word("two words"));
	assert_false(text_is_word("tab\t"));
}

static void text_fix_utf8_replaces_bad_bytes_only(void **state)
{
	char mixed[] = "a\xff\xc3\xa9\n\xe2\x82";
	char fine[] = "\xf0\x9f\x98\x80";

	(void)state;
	text_fix_utf8(mixed);
	assert_string_equal(mixed, "a?\xc3\xa9\n??");
	text_fix_utf8(fine);
	assert_string_equal(fine, "\xf0\x9f\x98\x80");
}

static void text_clean_gives_one_line(void **state)
{
	char text[] = "one\r\ntwo\x1b[0m\x7f \xc0\x80";

	(void)state;
	text_clean(text);
	assert_string_equal(text, "one  two [0m  ??");
}

static void text_copy_cuts_between_characters(void **state)
{
	char out[8];

	(void)state;
	text_copy(out, 4, "ab\xc3\xa9", 4);
	assert_string_equal(out, "ab");
	text_copy(out, 5, "ab\xc3\xa9", 4);
	assert_string_equal(out, "ab\xc3\xa9");
	text_copy(out, 4, "\xf0\x9f\x98\x80", 4);
	assert_string_equal(out, "");
	text_copy(out, sizeof(out), "a\0b\nc", 5);
	assert_string_equal(out, "a?b c");
	text_copy(out, 4, "\x80\x80\x80\x80\x80", 5);
	assert_string_equal(out, "???");
	text_copy(out, 1, "abc", 3);
	assert_string_equal(out, "");
	text_copy(out, sizeof(out), "", 0);
	assert_string_equal(out, "");
}

static void text_copy_ascii_gives_one_printable_line(void **state)
{
	char out[16], same[] = "x\r\ny\xc3\xa9";

	(void)state;
	text_copy_ascii(out, sizeof(out), "a\r\nb\x1b\xff", 6);
	assert_string_equal(out, "a|b??");
	text_copy_ascii(out, 3, "abcdef", 6);
	assert_string_equal(out, "ab");
	text_copy_ascii(same, sizeof(same), same, strlen(same));
	assert_string_equal(same, "x|y??");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_is_line_refuses_control_characters),
		cmocka_unit_test(text_fix_utf8_replaces_bad_bytes_only),
		cmocka_unit_test(text_clean_gives_one_line),
		cmocka_unit_test(text_copy_cuts_between_characters),
		cmocka_unit_test(text_copy_ascii_gives_one_printable_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
