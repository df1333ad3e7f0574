/*
 * toml.hpp: toml++ as this project's C++ files include it, made safe for text that nobody has checked.
 *
 * Why:     toml++ 3.3 (Debian 12) asserts on its input ("[(") and runs into __builtin_unreachable at
 *          characters beyond ASCII that stand outside strings and comments. Here an assertion throws, which
 *          toml_read answers like any other fault, and such characters are refused before.
 * Threads: no shared state.
 */
#ifndef CRI_TOML_HPP
#define CRI_TOML_HPP

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

/*
 * Walks the text as far as strings and comments go, and finds what toml++ must not see: characters beyond
 * ASCII and quotes in the midst of words outside them, table headers that begin with no key, and control
 * characters. True: none of these.
 */
class toml_scan
{
      public:
	explicit toml_scan(const std::string &given) : text(given)
	{
	}

	bool run(toml_fault &fault)
	{
		for (i = 0; i < text.size(); i++) {
			const char *why = next();

			if (why) {
				fault.line = line;
				fault.text = why;
				return false;
			}
		}
		return true;
	}

      private:
	const std::string &text;
	size_t i = 0;
	unsigned line = 1;
	char quote = 0;	   /* the string's that we are in */
	bool many = false; /* … which is of several lines */
	bool comment = false;
	bool line_begins = true;
	bool value = false; /* after "=", where a dot joins no keys */

	bool three(char c) const
	{
		return text.compare(i, 3, std::string(3, c)) == 0;
	}

	bool in_a_word() const
	{
		return i > 0 && !std::strchr(value ? " \t\r\n=,[{" : " \t\r\n=,[{.", text[i - 1]);
	}

	/* "[" or "[[", blanks, then a bare key, a quoted one, or the end that makes it an empty one. */
	bool header_has_key() const
	{
		size_t at = text.find_first_not_of("[ \t", i);

		return at == std::string::npos || std::isalnum(static_cast<unsigned char>(text[at])) ||
		       std::strchr("_-\"']", text[at]);
	}

	/* A backslash, then blanks and line ends, then what toml++ asks whether it is a blank, too. */
	bool continued_beyond_ascii() const
	{
		size_t at = text.find_first_not_of(" \t\r\n", i + 1);

		return at != std::string::npos && static_cast<unsigned char>(text[at]) >= 0x80;
	}

	void end_string(char c)
	{
		if (many && !three(c))
			return;
		i += many ? 2 : 0;
		for (int n = 0; many && n < 2 && i + 1 < text.size() && text[i + 1] == c; n++)
			i++; /* up to two quotes may be the string's own */
		quote = 0;
	}

	const char *next()
	{
		char c = text[i];
		bool first = line_begins;

		if ((static_cast<unsigned char>(c) < 0x20 && !std::isspace(static_cast<unsigned char>(c))) ||
		    c == 0x7f)
			return "a control character";
		line_begins = line_begins && (c == ' ' || c == '\t');
		if (!quote && !comment && c == '=' && value)
			return "a value is followed by \"=\"";
		if (!quote && !comment && std::strchr("\n=,{", c))
			value = c == '=';
		if (c == '\n') {
			line++;
			line_begins = true;
			comment = false;
			quote = many ? quote : 0;
		} else if (comment) {
			return nullptr;
		} else if (quote) {
			if (c == '\\' && quote == '"' && continued_beyond_ascii())
				return "a character beyond ASCII follows a line that ends in a backslash";
			if (c == '\\' && quote == '"' && i + 1 < text.size() && text[i + 1] != '\n')
				i++;
			else if (c == quote)
				end_string(c);
		} else if (c == '#') {
			comment = true;
		} else if (c == '"' || c == '\'') {
			if (in_a_word())
				return "a quote stands in the midst of a word";
			many = three(c);
			i += many ? 2 : 0;
			quote = c;
		} else if (static_cast<unsigned char>(c) >= 0x80) {
			return "a character beyond ASCII stands outside of text and comments";
		} else if (first && c == '[' && !header_has_key()) {
			return "a table's header begins with no key";
		}
		return nullptr;
	}
};

/* Parses; false fills *fault. Throws std::bad_alloc only. */
inline bool toml_read(const char *data, size_t len, toml::table &root, toml_fault &fault)
{
	std::string text(data, len);

	if (text.compare(0, 3, "\xef\xbb\xbf") == 0)
		text.erase(0, 3);
	if (!toml_scan(text).run(fault))
		return false;
	try {
		root = toml::parse(std::string_view(text));
		return true;
	} catch (const toml::parse_error &e) {
		fault.line = static_cast<unsigned>(e.source().begin.line);
		fault.text = std::string(e.description());
	} catch (const std::invalid_argument &e) {
		fault.text = e.what();
	}
	return false;
}

#endif
