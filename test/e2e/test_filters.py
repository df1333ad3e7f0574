# SPDX-License-Identifier: Apache-2.0
"""Packet filters in a pod, by a container with NET_ADMIN: what the guest's kernel must be able to do for service meshes and VPNs."""

from harness import BUSYBOX, REGISTRY
from test_containers import SHELL, OnePod

FILTERS = REGISTRY + "/test/filters:1"

# Every table of iptables, for IPv4 and IPv6, through the kernel's old interface and through nftables.
TABLES = """
set -e
for family in iptables ip6tables; do
	t() { xtables-$kind-multi $family -t "$@" || { echo "$kind $family -t $*: failed"; exit 1; }; }
	t filter -A OUTPUT -p tcp --dport 9 -m comment --comment x -j REJECT --reject-with tcp-reset
	t nat -A OUTPUT -p tcp --dport 81 -j REDIRECT --to-ports 80
	t nat -A POSTROUTING -o none0 -j MASQUERADE
	t mangle -A PREROUTING -i none0 -p tcp -m socket --transparent -j MARK --set-mark 1
	t mangle -A PREROUTING -i none0 -p tcp --dport 80 -j TPROXY --on-port 8080 --tproxy-mark 1
	t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
	t raw -A OUTPUT -p udp --dport 53 -m owner --uid-owner 1 -j CT --zone 1
	t filter -A INPUT -m conntrack --ctstate INVALID -m limit --limit 1/s -j LOG
	for table in filter nat mangle raw; do xtables-$kind-multi $family-save -t $table | sed "s/^/$family /"; done
done
"""
# A rule that was accepted must also act: another container of the pod looks. Without a time limit for wget, whose -T crashes in Debian
# 12's busybox.
SERVER = "httpd -p 80 -h /www; sleep 0.2\n"


class Filters(OnePod):
    images = (FILTERS, BUSYBOX)

    def script(self, text):
        # More than a hundred starts of a program, each emulated.
        return self.pod.output(SHELL + [text], seconds=120, image=FILTERS, **self.context(
            capabilities={"add_capabilities": ["NET_ADMIN", "NET_RAW"]}))

    def client(self, text):
        return self.pod.output(SHELL + [SERVER + text])

    def tables(self, kind):
        out = self.script(f"kind={kind}\n{TABLES}")
        for family in ("iptables", "ip6tables"):
            for rule in ("--dport 9 .*-j REJECT", "--dport 81 -j REDIRECT", "-j MASQUERADE", "-m socket --transparent -j MARK",
                         "-j TPROXY", "-j TCPMSS", "-j CT --zone 1", "-j LOG"):
                self.assertRegex(out, f"{family} -A .*{rule}")
        self.assertIn("hello from crivisor", self.client("wget -q -O - http://127.0.0.1:81/"))
        self.assertIn("refused", self.client("wget -O - http://127.0.0.1:9/ 2>&1 || true"))
        # The other tests share the pod's network.
        self.script(f"for f in iptables ip6tables; do for t in filter nat mangle raw; do xtables-{kind}-multi $f -t $t -F; done; done")

    def test_iptables_legacy_has_every_table(self):
        self.tables("legacy")

    def test_iptables_nft_has_every_table(self):
        self.tables("nft")

    def test_nft_redirects_by_a_map_and_balances(self):
        out = self.script("""
set -e
nft -f - <<-'NFT'
	table inet t {
		chain c {
			type nat hook output priority -100
			tcp dport 82 redirect to :80
			tcp dport 83 redirect to : numgen inc mod 2 map { 0 : 80, 1 : 80 }
		}
		chain p {
			type filter hook prerouting priority mangle
			iif != lo fib daddr type local tcp dport 84 tproxy ip to :8080
			socket transparent 1 meta mark set 1
		}
	}
NFT
nft list ruleset
""")
        self.assertIn("tproxy ip to :8080", out)
        out = self.client("for port in 82 83; do wget -q -O - http://127.0.0.1:$port/; done")
        self.assertEqual(out.count("hello from crivisor"), 2, out)
        self.script("nft delete table inet t")

    def test_ipset_matches_in_a_rule(self):
        self.script("""
set -e
for type in hash:ip hash:net hash:ip,port list:set; do ipset create "s-$type" $type; done
ipset create ports bitmap:port range 1-100
ipset add s-hash:ip 127.0.0.3
xtables-legacy-multi iptables -A OUTPUT -p tcp -m set --match-set s-hash:ip dst -j REJECT --reject-with tcp-reset
""")
        self.assertIn("hello from crivisor", self.client("wget -q -O - http://127.0.0.2/"))
        self.assertIn("refused", self.client("wget -O - http://127.0.0.3/ 2>&1 || true"))
        self.script("xtables-legacy-multi iptables -F; ipset destroy")
