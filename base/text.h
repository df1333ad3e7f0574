/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text.h: words of others (a guest, a VMM, a plugin, a registry, a client) made fit for our messages and
 * protocols.
 *
 * Purpose:   what passes through here cannot break a line, steer a terminal, or make a protobuf string
 *            invalid.
 * Threads:   no shared state.
 * Limits:    each function is linear in its input.
 * Source:    RFC 3629 (UTF-8).
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* True if s holds no control character (below 0x20, or 0x7f). The empty string is a line. */
bool text_is_line(const char *s);
/* True if s holds neither control character nor blank, and is not empty. */
bool text_is_word(const char *s);
/* In place: each byte that is not part of valid UTF-8 becomes '?'. Line breaks stay. */
void text_fix_utf8(char *s);
/* In place: as text_fix_utf8, and control characters become blanks. The result is one line of UTF-8. */
void text_clean(char *s);
/*
 * Copies len bytes, cut on a character's boundary to fit size bytes with the NUL, as text_clean; a NUL byte
 * becomes '?'.
 */
void text_copy(char *dst, size_t size, const void *src, size_t len);
/*
 * Copies len bytes, cut to fit size bytes with the NUL, as one line of printable ASCII: carriage returns go,
 * a line break becomes '|', all else '?'. dst may be src.
 */
void text_copy_ascii(char *dst, size_t size, const void *src, size_t len);

#endif
