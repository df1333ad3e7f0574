/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include "base/util.h"

static bool is_control(char c)
{
	return (unsigned char)c < 0x20 || c == 0x7f;
}

bool text_is_line(const char *s)
{
	for (; *s; s++) {
		if (is_control(*s))
			return false;
	}
	return true;
}

bool text_is_word(const char *s)
{
	return *s && !strchr(s, ' ') && text_is_line(s);
}

/* Cleans the len bytes at s. */
static void fix_utf8(char *s, size_t len)
{
	while (len > 0) {
		size_t n = utf8_char(s, len);

		if (n == 0) {
			*s = '?';
			n = 1;
		}
		s += n;
		len -= n;
	}
}

void text_fix_utf8(char *s)
{
	fix_utf8(s, strlen(s));
}

void text_clean(char *s)
{
	text_fix_utf8(s);
	for (; *s; s++) {
		if (is_control(*s))
			*s = ' ';
	}
}

/* The most bytes, at most max, that end with a whole character. What is not UTF-8 is cut anywhere. */
static size_t whole_characters(const unsigned char *s, size_t len, size_t max)
{
	size_t start = max;

	if (len <= max)
		return len;
	while (start > 0 && max - start < 3 && (s[start] & 0xc0) == 0x80)
		start--;
	return utf8_char(s + start, len - start) > max - start ? start : max;
}

void text_copy(char *dst, size_t size, const void *src, size_t len)
{
	len = whole_characters(src, len, size - 1);
	memcpy(dst, src, len);
	dst[len] = 0;
	fix_utf8(dst, len);
	text_clean(dst);
}

void text_copy_ascii(char *dst, size_t size, const void *src, size_t len)
{
	const char *from = src;
	size_t at = 0;

	for (size_t i = 0; i < len && at + 1 < size; i++) {
		if (from[i] == '\r')
			continue;
		if (from[i] == '\n')
			dst[at++] = '|';
		else
			dst[at++] = is_control(from[i]) || (unsigned char)from[i] >= 0x80 ? '?' : from[i];
	}
	dst[at] = 0;
}
