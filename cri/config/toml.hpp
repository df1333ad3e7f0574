/* SPDX-License-Identifier: Apache-2.0 */
/*
 * toml.hpp: toml++ as this project's C++ files include it, made safe for text that nobody has checked.
 *
 * Purpose:   toml++ 3.3 (Debian 12) asserts on its input ("[(") and runs into __builtin_unreachable at
 *            characters beyond ASCII in many places that are not TOML. Here an assertion throws, which
 *            toml_read answers like any other fault, and toml++ sees only ASCII: other bytes are spelt out
 *            before and put back into the strings after.
 * Threads:   no shared state.
 */
#ifndef CRI_CONFIG_TOML_HPP
#define CRI_CONFIG_TOML_HPP

extern "C" {
#include "base/util.h"
}

#include <cctype>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

[[noreturn]] inline void toml_assertion_failed()
{
	throw std::invalid_argument("not TOML");
}

#pragma push_macro("NDEBUG")
#undef NDEBUG
#define TOML_ASSERT(expr)      ((expr) ? static_cast<void>(0) : toml_assertion_failed())
#define TOML_EXCEPTIONS	       1
#define TOML_ENABLE_FORMATTERS 0
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#include <toml++/toml.h>
#pragma GCC diagnostic pop
#pragma pop_macro("NDEBUG")

struct toml_fault {
	unsigned line = 0; /* 0: not known */
	std::string text;
};

/* Spells bytes beyond ASCII as a mark that the text does not hold, and two hex digits. */
class toml_ascii
{
      public:
	explicit toml_ascii(const std::string &given)
	{
		do
			mark += '@';
		while (given.find(mark) != std::string::npos);
		for (char c : given) {
			char hex[3];

			if (static_cast<unsigned char>(c) < 0x80) {
				text += c;
				continue;
			}
			hex_encode(&c, 1, hex);
			text += mark + hex;
		}
	}

	void restore(toml::node &node) const
	{
		if (toml::table *table = node.as_table()) {
			for (auto &&[key, value] : *table)
				restore(value);
		} else if (toml::array *list = node.as_array()) {
			for (toml::node &item : *list)
				restore(item);
		} else if (node.is_string()) {
			restore(node.as_string()->get());
		}
	}

	std::string text;

      private:
	std::string mark = "<";

	static int digit(char c)
	{
		return c <= '9' ? c - '0' : c - 'a' + 10;
	}

	void restore(std::string &s) const
	{
		size_t at = 0, n = mark.size();

		while ((at = s.find(mark, at)) != std::string::npos) {
			/* An escape in the text may look like a mark: then no hex digits need follow. */
			if (at + n + 2 > s.size() || !std::isxdigit(static_cast<unsigned char>(s[at + n])) ||
			    !std::isxdigit(static_cast<unsigned char>(s[at + n + 1]))) {
				at += n;
				continue;
			}
			s.replace(at, n + 2, 1,
				  static_cast<char>(digit(s[at + n]) * 16 + digit(s[at + n + 1])));
			at++;
		}
	}
};

/*
 * The line of a table's header that begins with no key, where toml++ has an assertion instead of words; or 0.
 */
inline unsigned toml_headless_line(const std::string &text)
{
	unsigned line = 1;

	for (size_t at = 0; at < text.size(); line++) {
		size_t end = text.find('\n', at);
		size_t first = text.find_first_not_of(" \t", at);

		if (end == std::string::npos)
			end = text.size();
		if (first < end && text[first] == '[') {
			size_t key = text.find_first_not_of("[ \t", first);

			if (key < end && !std::isalnum(static_cast<unsigned char>(text[key])) &&
			    !std::strchr("_-\"']", text[key]))
				return line;
		}
		at = end + 1;
	}
	return 0;
}

/* Parses; false fills fault. Throws std::bad_alloc only. */
inline bool toml_read(const char *data, size_t len, toml::table &root, toml_fault &fault)
{
	std::string text(data, len);

	if (text.compare(0, 3, "\xef\xbb\xbf") == 0)
		text.erase(0, 3);
	if (!utf8_valid(text.data(), text.size())) {
		fault.text = "not UTF-8 text";
		return false;
	}
	const toml_ascii ascii(text);

	try {
		root = toml::parse(std::string_view(ascii.text));
		ascii.restore(root);
		return true;
	} catch (const toml::parse_error &e) {
		fault.line = static_cast<unsigned>(e.source().begin.line);
		fault.text = std::string(e.description());
	} catch (const std::invalid_argument &e) {
		fault.line = toml_headless_line(text);
		fault.text = fault.line > 0 ? "a table's header begins with no key" : e.what();
	}
	return false;
}

#endif
