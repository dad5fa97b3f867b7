"""DHCP options as OVN's northbound database has them: its names, and how it writes values. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.model.dhcp_options import DhcpOption

# By dnsmasq's names, those of OVN 23.03 (northd's supported_dhcp_opts) that tell a guest something.
NAMES: Mapping[int, Mapping[str, str]] = {
    4: {
        "dns-server": "dns_server",
        "log-server": "log_server",
        "lpr-server": "lpr_server",
        "domain-name": "domain_name",
        "swap-server": "swap_server",
        "ip-forward-enable": "ip_forward_enable",
        "default-ttl": "default_ttl",
        "mtu": "mtu",
        "tcp-ttl": "tcp_ttl",
        "tcp-keepalive": "tcp_keepalive_interval",
        "nis-server": "nis_server",
        "ntp-server": "ntp_server",
        "netbios-ns": "netbios_name_server",
        "netbios-nodetype": "netbios_node_type",
        "tftp-server": "tftp_server",
        "bootfile-name": "bootfile_name",
        "domain-search": "domain_search_list",
        "classless-static-route": "classless_static_route",
        "tftp-server-address": "tftp_server_address",
    },
    6: {"dns-server": "dns_server", "domain-search": "domain_search"},
}
_TEXTS = frozenset({"domain_name", "bootfile_name", "domain_search_list", "domain_search", "tftp_server"})


def is_known(option: DhcpOption) -> bool:
    """Whether OVN can say it."""
    return option.name in NAMES[option.version]


def value(name: str, values: tuple[str, ...]) -> str:
    """Values as dnsmasq reads them, in OVN's way."""
    plain = [each.strip('"[]') for each in values]
    if name == "classless_static_route":
        return "{" + ", ".join(",".join(pair) for pair in zip(plain[::2], plain[1::2], strict=True)) + "}"
    if name in _TEXTS:
        return '"' + ",".join(plain) + '"'
    return plain[0] if len(plain) == 1 else "{" + ", ".join(plain) + "}"


def said(options: tuple[DhcpOption, ...]) -> dict[str, str]:
    """Those that OVN knows, by its names."""
    return {(name := NAMES[o.version][o.name]): value(name, o.values) for o in options if is_known(o)}
