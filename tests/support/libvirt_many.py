"""Libvirt hosts on one LAN, each of which reaches the others' libvirtd by TCP, or by what stands for ssh."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from support.adopted_host import Host

UNDERLAYS = {"alpha": "10.61.9.1", "beta": "10.61.9.2", "gamma": "10.61.9.3"}
# Debian's libvirtd listens on a network by option alone; encrypted or not is no matter of ours.
LISTENING = """set -e
printf 'listen_tls = 0\\nlisten_tcp = 1\\nauth_tcp = "none"\\n' >> /etc/libvirt/libvirtd.conf
mv /usr/sbin/libvirtd /usr/sbin/libvirtd-really
printf '#!/bin/sh\\nexec /usr/sbin/libvirtd-really --listen "$@"\\n' > /usr/sbin/libvirtd
chmod 755 /usr/sbin/libvirtd
"""
# What libvirt runs for qemu+ssh. sshd would start virt-ssh-helper, which does no more than this.
SSH = """#!/bin/sh
echo "$@" >> /tmp/ssh.log
while [ "$1" != -- ]; do shift; done
exec busybox nc "$2" 16509
"""
LAN = """set -e
ip netns add lan
ip -n lan link add lan0 type bridge stp_state 0 forward_delay 0
ip -n lan link set lan0 up
for port; do ip link set $port netns lan; ip -n lan link set $port master lan0 up; done
"""


def on_a_lan(hosts: Mapping[str, Host]) -> None:
    """Gives each host the device up0, with its underlay address, on a LAN that is in a namespace of the first."""
    pids = {name: str(host.sandbox.first.pid) for name, host in hosts.items()}
    first = next(iter(hosts))
    for name, pid in pids.items():
        ends = ["name", "up0", "netns", pid, "type", "veth", "peer", "name", f"to-{name}", "netns", pids[first]]
        subprocess.run(["ip", "link", "add", *ends], check=True, timeout=120)
        hosts[name].sandbox.run(["ip", "address", "add", f"{UNDERLAYS[name]}/24", "dev", "up0"])
        hosts[name].sandbox.run(["ip", "link", "set", "up0", "up"])
    for host in hosts.values():
        host.sandbox.run(["sh", "-c", "cat > /usr/bin/ssh && chmod 755 /usr/bin/ssh"], stdin=SSH)
    names = "".join(f"{UNDERLAYS[name]} {host.sandbox.name}\n" for name, host in hosts.items())
    for host in hosts.values():
        host.sandbox.run(["tee", "-a", "/etc/hosts"], stdin=names)  # for migration
    hosts[first].sandbox.run(["sh", "-c", LAN, "lan", *(f"to-{name}" for name in hosts)])


def uris() -> str:
    """What a topology says of them: the last one is reached by ssh."""
    by = {name: f"qemu+tcp://{address}/system" for name, address in UNDERLAYS.items()}
    by["gamma"] = f"qemu+ssh://root@{UNDERLAYS['gamma']}/system"
    labels = "labels: { core: up0 }"
    lines = [f'  {n}: {{ uri: "{by[n]}", underlay: {a}, {labels} }}' for n, a in UNDERLAYS.items()]
    return "\n".join(["hosts:", *lines])
