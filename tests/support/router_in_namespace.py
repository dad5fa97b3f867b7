"""A virtual router's agent in a network namespace instead of its appliance: the same document and agent on this
machine's kernel, nft and dnsmasq. It starts at once, and is not what anybody runs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from libvirt_guestnet.model.router import RouterConfig
from libvirt_guestnet.router.client import RouterClient
from support.router_bench import Namespace, RouterBench

NO_TAPS: Mapping[str, str] = MappingProxyType({})
AGENT = Path(str(files("libvirt_guestnet.router").joinpath("data/agent")))

# Its host's end is a socket here, which one client may use, and there are no disks. Nobody is asked about DHCPv6, since
# not every kernel that tests run on has nft's queues.
_DRIVER = r"""
use strict; use warnings; use IO::Socket::UNIX;
require $ARGV[0];
no warnings qw(redefine once);
*main::open_port = sub {
    my $host = IO::Socket::UNIX->new(Local => $ARGV[1], Listen => 1) or die "socket: $!";
    my $client = $host->accept or die "accept: $!";
    $client->blocking(0);
    return $client;
};
my $transaction = \&main::transaction;
*main::transaction = sub { return $transaction->(@_) =~ s/^add rule .* queue num .*$/#/mgr };
*main::open_button = sub { return undef };
serve();
"""
_START = r"""
set -e
mount -t tmpfs none /run
mount -t sysfs none /sys
mkdir -p /run/router /run/dnsmasq
echo 'root:x:0:0::/:/bin/sh
dnsmasq:x:999:999::/:/bin/false' >/run/passwd
echo 'root:x:0:
dnsmasq:x:999:' >/run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
for name in default all eth0 eth2 eth3; do
    for key in accept_ra accept_dad; do
        ! [ -e /proc/sys/net/ipv6/conf/$name ] || echo 0 >/proc/sys/net/ipv6/conf/$name/$key
    done
done
exec perl -e "$1" "$2" "$3"
"""


class NamespaceRouter:
    """Stands for a `router_bench.Router` where nobody restarts it."""

    def __init__(
        self, bench: RouterBench, config: RouterConfig, bridges: dict[str, str], taps: Mapping[str, str] = NO_TAPS
    ) -> None:
        """Bridges are by the names of its NICs, and so are taps, where names of theirs matter."""
        self.bench, self.name = bench, config.name
        self.namespace = Namespace(config.name, bench.stack, bench.directory)
        self.socket = bench.directory / f"{config.name}.router"
        for nic in (*config.traffic_nics, config.control):
            tap = taps.get(nic.name, f"{self.name}-{nic.name}")
            peer = f"peer name {nic.name} address {nic.mac} netns {self.namespace.holder.pid}"
            bench.host.ip(f"link add {tap} type veth {peer}")
            bench.host.ip(f"link set {tap} master {bridges[nic.name]} up")
        # The agent's dnsmasq ends with it, however that ends.
        own = ("--pid", "--fork", "--kill-child", "--mount-proc")
        argv = (
            "unshare",
            "-m",
            *own,
            "--propagation",
            "private",
            "sh",
            "-c",
            _START,
            "sh",
            _DRIVER,
            AGENT,
            self.socket,
        )
        self.process = self.namespace.start(*map(str, argv), str(self.socket), stderr=subprocess.STDOUT, stdout=None)

    def connect(self) -> RouterClient:
        deadline = time.monotonic() + 240
        while not self.socket.exists():
            assert time.monotonic() < deadline, "the agent did not start"
            time.sleep(0.02)
        return self.bench.stack.enter_context(RouterClient.connect(self.socket, self.name, 240))
