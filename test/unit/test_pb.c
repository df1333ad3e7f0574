/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers around protobuf-c messages. */
#include "base/util.h"
#include "api/cri/runtime.pb-c.h"
#include "api/pb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void check_text(const char *in, const char *want)
{
	Runtime__V1__ContainerStatus *s = pb_new(&runtime__v1__container_status__descriptor);

	assert_non_null(s);
	assert_int_equal(pb_set_text(&s->message, in), 0);
	assert_string_equal(s->message, want);
	assert_true(utf8_valid(s->message, strlen(s->message)));
	pb_free(s);
}

static void pb_set_text_good_is_kept(void **state)
{
	(void)state;
	check_text("", "");
	check_text(NULL, "");
	check_text("plain", "plain");
	check_text("\xc3\xa4 \xe2\x80\xa6 \xf0\x9f\x90\xb3", "\xc3\xa4 \xe2\x80\xa6 \xf0\x9f\x90\xb3");
}

static void pb_set_text_bad_bytes_become_marks(void **state)
{
	(void)state;
	check_text("\xff", "?");
	check_text("a\x80z", "a?z");
	check_text("cut \xe2\x80", "cut ??");
	check_text("\xf0\x9f\x90", "???");
	check_text("\xc0\xaf \xed\xa0\x80", "?? ???");
	check_text("\xe2\x80\xa6\xe2", "\xe2\x80\xa6?");
}

static void pb_clone_of_null_is_null(void **state)
{
	(void)state;
	assert_null(pb_clone(NULL));
	pb_free(NULL);
}

static void pb_map_add_keeps_both(void **state)
{
	Runtime__V1__PodSandboxConfig *c = pb_new(&runtime__v1__pod_sandbox_config__descriptor);
	Runtime__V1__PodSandboxConfig *copy;

	(void)state;
	assert_int_equal(pb_map_add(&c->labels, &c->n_labels,
				    &runtime__v1__pod_sandbox_config__labels_entry__descriptor, "k", "v"),
			 0);
	copy = PB_CLONE(c);
	assert_int_equal(copy->n_labels, 1);
	assert_string_equal(copy->labels[0]->key, "k");
	assert_string_equal(copy->labels[0]->value, "v");
	pb_free(copy);
	pb_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pb_set_text_good_is_kept),
		cmocka_unit_test(pb_set_text_bad_bytes_become_marks),
		cmocka_unit_test(pb_clone_of_null_is_null),
		cmocka_unit_test(pb_map_add_keeps_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
