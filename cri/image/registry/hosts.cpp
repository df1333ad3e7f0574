/* SPDX-License-Identifier: Apache-2.0 */
// The one file of the image code that is C++: toml++ has no C interface. Nothing thrown leaves it.
#include "cri/config/toml.hpp"

extern "C" {
#include "cri/image/registry/hosts_internal.h"
#include "cri/image/oci/reference.h"
}

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <new>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace
{

constexpr size_t file_max = 64 * 1024;
constexpr size_t headers_max = 32;
constexpr long connect_timeout_default_ms = 20000;

struct host {
	std::string base, name;
	bool pull = true, resolve = true, skip_verify = false, http_fallback = false, is_registry = false;
	std::vector<std::string> ca, headers;
	std::string client_cert, client_key;
	long connect_timeout_ms = connect_timeout_default_ms;
};

struct value_fault {
	std::string text;
	unsigned line = 0;
};

struct parser {
	std::string base_dir, domain;
	value_fault bad;

	bool fail(const toml::node &at, const std::string &text)
	{
		bad.text = text;
		bad.line = at.source().begin.line;
		return false;
	}
	bool fail(const std::string &text)
	{
		bad.text = text;
		return false;
	}
};

std::string absolute(const std::string &path, const std::string &base)
{
	return !path.empty() && path[0] == '/' ? path : base + "/" + path;
}

bool printable(const std::string &s)
{
	return std::all_of(s.begin(), s.end(), [](char c) { return c == '\t' || (c >= 0x20 && c < 0x7f); });
}

bool set_url(parser &p, const std::string &given, bool override_path, host &h)
{
	std::string url = given, path;
	size_t scheme, slash;

	if (url.find("://") == std::string::npos)
		url = "https://" + url;
	if (url.compare(0, 8, "https://") == 0)
		scheme = 8;
	else if (url.compare(0, 7, "http://") == 0)
		scheme = 7;
	else
		return p.fail("\"" + given + "\" is not an http:// or https:// URL");
	slash = url.find('/', scheme);
	h.name = url.substr(scheme, slash == std::string::npos ? slash : slash - scheme);
	if (h.name.empty() || h.name.find_first_of("@ \t?#%") != std::string::npos || !printable(url))
		return p.fail("\"" + given + "\" names no host, or more than a host");
	if (slash != std::string::npos)
		path = url.substr(slash);
	if (path.find_first_of(" ?#") != std::string::npos || path.find("/..") != std::string::npos)
		return p.fail("\"" + given + "\" is more than a host and a path");
	while (!path.empty() && path.back() == '/')
		path.pop_back();
	if (!override_path && (path.size() < 3 || path.compare(path.size() - 3, 3, "/v2") != 0))
		path += "/v2";
	h.base = url.substr(0, scheme) + h.name + path;
	return true;
}

bool set_capabilities(parser &p, const toml::node &node, host &h)
{
	const toml::array *list = node.as_array();

	if (!list)
		return p.fail(node, "capabilities is not a list");
	if (list->empty())
		return true;
	h.pull = h.resolve = false;
	for (const toml::node &item : *list) {
		std::string name = item.value_or(std::string());

		std::transform(name.begin(), name.end(), name.begin(),
			       [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
		if (name == "pull")
			h.pull = true;
		else if (name == "resolve")
			h.resolve = true;
		else if (name != "push" && name != "referrers")
			return p.fail(item, "unknown capability \"" + name + "\"");
	}
	return true;
}

bool set_ca(parser &p, const toml::node &node, host &h)
{
	if (auto one = node.value<std::string>(); one && node.is_string()) {
		h.ca.push_back(absolute(*one, p.base_dir));
		return true;
	}
	const toml::array *list = node.as_array();

	if (!list)
		return p.fail(node, "ca is neither a string nor a list of strings");
	for (const toml::node &item : *list) {
		if (!item.is_string())
			return p.fail(item, "ca holds a value that is not a string");
		h.ca.push_back(absolute(item.value_or(std::string()), p.base_dir));
	}
	return true;
}

/* "file", ["file", …] or [["cert", "key"], …]; the first pair is used. */
bool set_client(parser &p, const toml::node &node, host &h)
{
	const toml::node *first = &node;

	if (const toml::array *list = node.as_array()) {
		if (list->empty())
			return true;
		first = list->get(0);
	}
	if (first->is_string()) {
		h.client_cert = h.client_key = absolute(first->value_or(std::string()), p.base_dir);
		return true;
	}
	const toml::array *pair = first->as_array();

	if (!pair || pair->size() != 2 || !pair->get(0)->is_string() || !pair->get(1)->is_string())
		return p.fail(*first, "client is not a file or a pair of files");
	h.client_cert = absolute(pair->get(0)->value_or(std::string()), p.base_dir);
	h.client_key = absolute(pair->get(1)->value_or(std::string()), p.base_dir);
	return true;
}

bool add_header(parser &p, const std::string &name, const toml::node &value, host &h)
{
	std::string text = value.value_or(std::string());
	static const char token[] =
		"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	if (!value.is_string())
		return p.fail(value, "header \"" + name + "\" is not a string");
	if (name.empty() || name.find_first_not_of(token) != std::string::npos || !printable(text))
		return p.fail(value, "header \"" + name + "\" is not one that HTTP allows");
	if (h.headers.size() >= headers_max)
		return p.fail(value, "too many headers");
	h.headers.push_back(name + ": " + text);
	return true;
}

bool set_headers(parser &p, const toml::node &node, host &h)
{
	const toml::table *map = node.as_table();

	if (!map)
		return p.fail(node, "header is not a table");
	for (auto &&[key, value] : *map) {
		std::string name(key.str());

		if (const toml::array *list = value.as_array()) {
			for (const toml::node &item : *list) {
				if (!add_header(p, name, item, h))
					return false;
			}
		} else if (!add_header(p, name, value, h)) {
			return false;
		}
	}
	return true;
}

/* Go's duration for what makes sense here: "500ms", "5s", "1m", "1m30s". */
bool set_dial_timeout(parser &p, const toml::node &node, host &h)
{
	std::string text = node.value_or(std::string());
	const char *s = text.c_str();
	double total = 0;

	while (*s) {
		char *end;
		double n = std::strtod(s, &end);

		if (end == s || n < 0)
			return p.fail(node, "dial_timeout \"" + text + "\" is not a duration like \"5s\"");
		if (std::strncmp(end, "ms", 2) == 0) {
			total += n;
			end += 2;
		} else if (*end == 's') {
			total += n * 1000;
			end += 1;
		} else if (*end == 'm') {
			total += n * 60000;
			end += 1;
		} else {
			return p.fail(node, "dial_timeout \"" + text + "\" is not a duration like \"5s\"");
		}
		s = end;
	}
	if (!(total >= 1 && total <= 600000))
		return p.fail(node, "dial_timeout \"" + text + "\" is not between 1ms and 10m");
	h.connect_timeout_ms = static_cast<long>(total);
	return true;
}

bool read_host(parser &p, const toml::table &t, const std::string &url, host &h)
{
	bool override_path = false;

	if (const toml::node *n = t.get("override_path")) {
		if (!n->is_boolean())
			return p.fail(*n, "override_path is not true or false");
		override_path = n->value_or(false);
	}
	if (const toml::node *n = t.get("skip_verify")) {
		if (!n->is_boolean())
			return p.fail(*n, "skip_verify is not true or false");
		h.skip_verify = n->value_or(false);
	}
	if (const toml::node *n = t.get("capabilities"); n && !set_capabilities(p, *n, h))
		return false;
	if (const toml::node *n = t.get("ca"); n && !set_ca(p, *n, h))
		return false;
	if (const toml::node *n = t.get("client"); n && !set_client(p, *n, h))
		return false;
	if (const toml::node *n = t.get("header"); n && !set_headers(p, *n, h))
		return false;
	if (const toml::node *n = t.get("dial_timeout"); n && !set_dial_timeout(p, *n, h))
		return false;
	if (url.empty())
		return true;
	if (!set_url(p, url, override_path, h)) {
		p.bad.line = t.source().begin.line;
		return false;
	}
	return true;
}

/* The registry itself, where nothing says otherwise. */
void set_default(const std::string &domain, host &h)
{
	std::string name = image_ref_default_host(domain.c_str());
	size_t colon = name.rfind(':');
	std::string port = colon == std::string::npos || name.back() == ']' ? "" : name.substr(colon + 1);

	h.name = name;
	h.is_registry = true;
	h.base = "https://" + name + "/v2";
	if (!image_host_is_loopback(name.c_str()))
		return;
	if (port == "80") {
		h.base = "http://" + name + "/v2";
		return;
	}
	h.skip_verify = true;
	h.http_fallback = !port.empty() && port != "443";
}

bool read_file_hosts(parser &p, const toml::table &root, std::vector<host> &hosts)
{
	std::vector<std::pair<unsigned, std::string>> order;
	std::string server;
	host last;

	if (const toml::node *n = root.get("host")) {
		const toml::table *map = n->as_table();

		if (!map)
			return p.fail(*n, "host is not a table");
		if (map->size() >= REGISTRY_HOSTS_MAX)
			return p.fail(*n, "too many hosts");
		for (auto &&[key, value] : *map) {
			if (!value.is_table())
				return p.fail(value,
					      "host.\"" + std::string(key.str()) + "\" is not a table");
			order.emplace_back(key.source().begin.line, std::string(key.str()));
		}
		std::stable_sort(order.begin(), order.end(),
				 [](const auto &a, const auto &b) { return a.first < b.first; });
		for (const auto &entry : order) {
			host h;

			if (entry.second.empty())
				return p.fail(*n, "a host has no URL");
			if (!read_host(p, *map->get(entry.second)->as_table(), entry.second, h))
				return false;
			hosts.push_back(std::move(h));
		}
	}
	if (const toml::node *n = root.get("server")) {
		if (!n->is_string())
			return p.fail(*n, "server is not a string");
		server = n->value_or(std::string());
	}
	if (server.empty())
		set_default(p.domain, last);
	if (!read_host(p, root, server, last))
		return false;
	last.is_registry = true;
	hosts.push_back(std::move(last));
	return true;
}

/* ---- to C ---------------------------------------------------------------------------------------------- */

char *copy(const std::string &s)
{
	char *c = strdup(s.c_str());

	if (!c)
		throw std::bad_alloc();
	return c;
}

char **copy(const std::vector<std::string> &v)
{
	char **c = static_cast<char **>(calloc(v.size() + 1, sizeof(char *)));

	if (!c)
		throw std::bad_alloc();
	for (size_t i = 0; i < v.size(); i++)
		c[i] = strdup(v[i].c_str());
	return c;
}

void to_c(const std::vector<host> &hosts, struct registry_hosts &out)
{
	out.items = static_cast<struct registry_host *>(
		calloc(hosts.size() ? hosts.size() : 1, sizeof(*out.items)));
	if (!out.items)
		throw std::bad_alloc();
	for (const host &h : hosts) {
		struct registry_host &c = out.items[out.n_items++];

		c.base = copy(h.base);
		c.host = copy(h.name);
		c.pull = h.pull;
		c.resolve = h.resolve;
		c.skip_verify = h.skip_verify;
		c.http_fallback = h.http_fallback;
		c.is_registry = h.is_registry;
		c.ca = copy(h.ca);
		c.headers = copy(h.headers);
		if (!h.client_cert.empty()) {
			c.client_cert = copy(h.client_cert);
			c.client_key = copy(h.client_key);
		}
		c.connect_timeout_ms = h.connect_timeout_ms;
	}
}

int parse(const char *text, size_t len, const char *file, const char *base_dir, const char *domain,
	  std::vector<host> &hosts, struct err *err)
{
	toml::table root;
	toml_fault fault;
	parser p;

	if (!toml_read(text, len, root, fault))
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "%s:%u: %s", file, fault.line,
				      fault.text.c_str());
	p.base_dir = base_dir;
	p.domain = domain;
	if (!read_file_hosts(p, root, hosts))
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "%s:%u: %s", file, p.bad.line,
				      p.bad.text.c_str());
	return 0;
}

bool is_dir(const std::string &path)
{
	struct stat st;

	return stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

std::string find_dir(const char *root, const std::string &domain)
{
	std::string base = std::string(root) + "/";
	size_t colon = domain.rfind(':');

	if (colon != std::string::npos && colon > 0 && domain.back() != ']') {
		std::string alias = base + domain.substr(0, colon) + "_" + domain.substr(colon + 1) + "_";

		if (is_dir(alias))
			return alias;
	}
	if (is_dir(base + domain))
		return base + domain;
	if (is_dir(base + "_default"))
		return base + "_default";
	return std::string();
}

bool ends(const std::string &s, const char *suffix)
{
	size_t n = std::strlen(suffix);

	return s.size() > n && s.compare(s.size() - n, n, suffix) == 0;
}

/* Docker's certs.d layout: *.crt are authorities, *.cert with *.key the client's. */
void add_cert_files(const std::string &dir, host &h)
{
	std::vector<std::string> names;
	DIR *d = opendir(dir.c_str());

	if (!d)
		return;
	while (const struct dirent *de = readdir(d)) {
		if (names.size() < 256)
			names.push_back(de->d_name);
	}
	closedir(d);
	std::sort(names.begin(), names.end());
	for (const std::string &name : names) {
		if (ends(name, ".crt"))
			h.ca.push_back(dir + "/" + name);
		if (ends(name, ".cert") && h.client_cert.empty()) {
			std::string key = dir + "/" + name.substr(0, name.size() - 5) + ".key";

			h.client_cert = dir + "/" + name;
			h.client_key = access(key.c_str(), F_OK) == 0 ? key : h.client_cert;
		}
	}
}

int read_text(const std::string &path, std::string &out)
{
	int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
	char block[4096];
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, block, sizeof(block))) > 0 && out.size() <= file_max)
		out.append(block, static_cast<size_t>(n));
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return static_cast<int>(n);
	return out.size() > file_max ? -EFBIG : 0;
}

int load(const char *dir, const char *domain, std::vector<host> &hosts, struct err *err)
{
	std::string found = dir && *dir ? find_dir(dir, domain) : std::string();
	std::string text, file = found + "/hosts.toml";
	host only;
	int r;

	if (!found.empty()) {
		r = read_text(file, text);
		if (r < 0 && r != -ENOENT)
			return err_set_status(err, r, ERR_FAILED_PRECONDITION, "%s: %s", file.c_str(),
					      strerror(-r));
		if (!text.empty())
			return parse(text.data(), text.size(), file.c_str(), found.c_str(), domain, hosts,
				     err);
	}
	set_default(domain, only);
	if (!found.empty())
		add_cert_files(found, only);
	hosts.push_back(std::move(only));
	return 0;
}

/* Runs fn, which fills hosts, and turns the result and whatever is thrown into C's terms. */
template <typename F> int guarded(F fn, struct registry_hosts *ret_hosts, struct err *err)
{
	struct registry_hosts out = {nullptr, 0};
	std::vector<host> hosts;
	int r;

	try {
		r = fn(hosts);
		if (r < 0)
			return r;
		to_c(hosts, out);
	} catch (const std::exception &) {
		registry_hosts_done(&out);
		return err_oom(err);
	}
	*ret_hosts = out;
	return 0;
}

} // namespace

extern "C" int registry_hosts_load(const char *dir, const char *domain, struct registry_hosts *ret_hosts,
				   struct err *err)
{
	return guarded([&](std::vector<host> &hosts) { return load(dir, domain, hosts, err); }, ret_hosts,
		       err);
}

extern "C" int registry_hosts_parse(const char *text, size_t len, const char *file, const char *base_dir,
				    const char *domain, struct registry_hosts *ret_hosts, struct err *err)
{
	return guarded(
		[&](std::vector<host> &hosts) {
			return parse(text, len, file, base_dir, domain, hosts, err);
		},
		ret_hosts, err);
}

extern "C" void registry_hosts_done(struct registry_hosts *hosts)
{
	for (size_t i = 0; i < hosts->n_items; i++) {
		struct registry_host &h = hosts->items[i];

		for (char **p = h.ca; p && *p; p++)
			free(*p);
		for (char **p = h.headers; p && *p; p++)
			free(*p);
		free(h.ca);
		free(h.headers);
		free(h.base);
		free(h.host);
		free(h.client_cert);
		free(h.client_key);
	}
	free(hosts->items);
	hosts->items = nullptr;
	hosts->n_items = 0;
}
