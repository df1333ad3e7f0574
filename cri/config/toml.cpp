/* SPDX-License-Identifier: Apache-2.0 */
// The one file of the configuration that is C++: toml++ has no C interface. Nothing thrown leaves it.
#include "cri/config/toml.hpp"

extern "C" {
#include "cri/config/toml_internal.h"
}

#include <cerrno>
#include <string>
#include <vector>

namespace
{

struct walk {
	const char *name;
	config_toml_fn *fn;
	void *arg;
	struct err *err;
};

const char *type_name(const toml::node &node)
{
	switch (node.type()) {
	case toml::node_type::table:
		return "table";
	case toml::node_type::array:
		return "array";
	case toml::node_type::string:
		return "string";
	case toml::node_type::integer:
		return "integer";
	case toml::node_type::floating_point:
		return "floating-point number";
	case toml::node_type::boolean:
		return "boolean";
	default:
		return "date or time";
	}
}

bool all_strings(const toml::array &array)
{
	for (const toml::node &node : array)
		if (!node.is_string())
			return false;
	return true;
}

int visit_table(const walk &w, const std::string &prefix, const toml::table &table);

int visit(const walk &w, const std::string &key, const toml::node &node)
{
	struct config_toml_value value = {CONFIG_TOML_OTHER, type_name(node), "", 0, false, nullptr};
	unsigned int line = node.source().begin.line;
	std::vector<const char *> strings;
	int r;

	if (const auto *s = node.as_string()) {
		value.type = CONFIG_TOML_STRING;
		value.string = s->get().c_str();
		if (s->get().find('\0') != std::string::npos)
			return err_set(w.err, -EINVAL, "%s:%u: %s holds a NUL", w.name, line, key.c_str());
	} else if (const auto *i = node.as_integer()) {
		value.type = CONFIG_TOML_INTEGER;
		value.integer = i->get();
	} else if (const auto *b = node.as_boolean()) {
		value.type = CONFIG_TOML_BOOLEAN;
		value.boolean = b->get();
	} else if (node.is_table()) {
		value.type = CONFIG_TOML_TABLE;
	} else if (node.is_array() && all_strings(*node.as_array())) {
		value.type = CONFIG_TOML_STRINGS;
		for (const toml::node &item : *node.as_array())
			strings.push_back(item.as_string()->get().c_str());
		strings.push_back(nullptr);
		value.strings = strings.data();
	}
	r = w.fn(w.arg, key.c_str(), line, &value, w.err);
	return r >= 0 && node.is_table() ? visit_table(w, key + ".", *node.as_table()) : r;
}

int visit_table(const walk &w, const std::string &prefix, const toml::table &table)
{
	for (auto &&[key, node] : table) {
		int r = visit(w, prefix + std::string(key.str()), node);

		if (r < 0)
			return r;
	}
	return 0;
}

} // namespace

extern "C" int config_toml_walk(const char *name, const char *text, size_t len, config_toml_fn *fn, void *arg,
				struct err *err)
{
	try {
		toml::table root;
		toml_fault fault;
		const walk w = {name, fn, arg, err};

		if (!toml_read(text, len, root, fault))
			return err_set(err, -EINVAL, "%s:%u: %s", name, fault.line, fault.text.c_str());
		return visit_table(w, "", root);
	} catch (...) {
		return err_oom(err);
	}
}
