/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/host/options_internal.h"

#include "base/util.h"

#include <getopt.h>

const char options_help[] =
	"Usage: crivisor-agent-host --socket PATH --bundles DIR --run-dir DIR --cgroup-parent CGROUP "
	"[OPTION]...\n"
	"Runs containers on this machine, for one pod, as the agent in a VM does for a pod with a VM.\n"
	"\n"
	"  --socket PATH           UNIX socket to serve (mode 0600; only root may connect)\n"
	"  --bundles DIR           directory of the bundles: DIR/<container id>/config.json\n"
	"  --run-dir DIR           directory of this agent alone: state of the runtime, short-lived files\n"
	"  --cgroup-parent CGROUP  cgroup of this agent's containers alone, such as /crivisor/<pod>\n"
	"  --runtime PATH          the OCI runtime, crun (default: /usr/bin/crun)\n"
	"  --log-level LEVEL       trace, debug, info, warn or error (default: info)\n"
	"  --help, --version\n";

static const struct option longs[] = {
	{"socket", required_argument, NULL, 's'},
	{"bundles", required_argument, NULL, 'b'},
	{"run-dir", required_argument, NULL, 'r'},
	{"cgroup-parent", required_argument, NULL, 'c'},
	{"runtime", required_argument, NULL, 'x'},
	{"log-level", required_argument, NULL, 'l'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'v'},
	{NULL, 0, NULL, 0},
};

static int take(struct options *o, int option, struct err *err)
{
	switch (option) {
	case 's':
		o->socket = optarg;
		break;
	case 'b':
		o->bundles = optarg;
		break;
	case 'r':
		o->run_dir = optarg;
		break;
	case 'c':
		o->cgroup_parent = optarg;
		break;
	case 'x':
		o->runtime = optarg;
		break;
	case 'l':
		if (log_level_parse(optarg, &o->log_level) < 0)
			return err_set(err, -EINVAL, "--log-level %s: want trace, debug, info, warn or error",
				       optarg);
		break;
	case 'h':
		o->help = true;
		break;
	case 'v':
		o->version = true;
		break;
	default:
		return -EINVAL;
	}
	return 0;
}

static int check_path(const char *option, const char *path, struct err *err)
{
	size_t len = path ? strlen(path) : 0;

	if (!path)
		return err_set(err, -EINVAL, "--%s is missing", option);
	if (len < 2 || path[0] != '/' || path[len - 1] == '/' || strstr(path, "/../") ||
	    str_ends(path, "/.."))
		return err_set(err, -EINVAL,
			       "--%s %s: want an absolute path without \"..\" or a slash at its end", option,
			       path);
	return 0;
}

int options_parse(int argc, char **argv, struct options *ret, struct err *err)
{
	struct options o = {.runtime = "/usr/bin/crun", .log_level = LOG_LEVEL_INFO};
	int option, r = 0;

	optind = 0; /* starts anew, also for tests */
	opterr = 0;
	while (r == 0 && (option = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (option == '?' || option == ':')
			return err_set(err, -EINVAL,
				       option == '?' ? "unknown option %s" : "option %s needs a value",
				       argv[optind - 1]);
		r = take(&o, option, err);
	}
	if (r == 0 && optind < argc)
		r = err_set(err, -EINVAL, "unexpected argument %s", argv[optind]);
	if (r == 0 && !o.help && !o.version) {
		r = check_path("socket", o.socket, err);
		r = r < 0 ? r : check_path("bundles", o.bundles, err);
		r = r < 0 ? r : check_path("run-dir", o.run_dir, err);
		r = r < 0 ? r : check_path("cgroup-parent", o.cgroup_parent, err);
		r = r < 0 ? r : check_path("runtime", o.runtime, err);
	}
	if (r < 0)
		return r;
	*ret = o;
	return 0;
}
