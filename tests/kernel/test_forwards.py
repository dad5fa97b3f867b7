"""Port forwards and floating addresses of a guest, asked for from a LAN, the host and a neighbour, past rules such as
libvirt's: the real hooks and kernel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.hooks import DATA, NETWORK, with_metadata
from support.kernel_lan import (
    FLOAT,
    FLOATING,
    FLOATING6,
    FORWARDS,
    GUEST,
    GUEST6,
    HOST,
    HOST2,
    HOST6,
    LAN,
    LAN6,
    NEAR,
    NEAR6,
    LanHost,
    agent,
    seen,
    start,
)

pytestmark = pytest.mark.kernel

# libvirt's rules for an isolated network: nobody goes in or out.
ISOLATED = """set -e
for tool in iptables ip6tables; do
    $tool -F FORWARD
    $tool -A FORWARD -i virbr1 -o virbr1 -j ACCEPT
    for way in -o -i; do $tool -A FORWARD $way virbr1 -j REJECT; done
done"""


@pytest.mark.parametrize("isolated", [False, True], ids=["nat", "isolated"])
def test_forwards_keep_the_clients_address(host: LanHost, isolated: bool) -> None:
    if isolated:
        host.box.ok("sh", "-c", ISOLATED)
    xml = start(FORWARDS)
    before = host.rules()
    assert host.call("qemu", "guesta", "start", "begin", xml) == (0, "")
    assert not host.tcp("lan", HOST, 8080).open, "nobody is there yet"
    assert host.call("qemu", "guesta", "started", "begin", xml) == (0, "")
    for who, address, address6 in (("lan", LAN, LAN6), ("host", HOST, HOST6)):
        assert seen(host.tcp(who, HOST, 8080)) == address
        assert seen(host.tcp(who, HOST6, 8080)) == address6
        assert seen(host.udp(who, HOST, 5300)) == address
        assert seen(host.udp(who, HOST6, 5300)) == address6
        assert seen(host.tcp(who, HOST, 8005)) == address
        assert seen(host.udp(who, HOST, 7000)) == address
        assert seen(host.udp(who, HOST6, 7002)) == address6
    assert seen(host.udp("lan", HOST2, 7002)) == LAN, "any address of the host"
    # A neighbour on the guest's own bridge would be answered past the host: it alone is hidden.
    assert seen(host.tcp("near", HOST, 8080)) == "10.61.1.1"
    assert seen(host.udp("near", HOST6, 5300)) == "fd61:1::1"
    # Where bridged frames pass iptables (br_netfilter, as with Docker), nobody has to be hidden.
    if host.box.run("test", "-e", "/proc/sys/net/bridge").returncode == 0:
        for family in ("iptables", "ip6tables"):
            host.box.ok("sh", "-c", f"echo 1 > /proc/sys/net/bridge/bridge-nf-call-{family}")
        assert (seen(host.tcp("near", HOST, 8080)), seen(host.tcp("near", HOST6, 8080))) == (NEAR, NEAR6)
    # Nothing else is open, and nobody gets in by the guest's own address.
    host.box.ok("ip", "-n", "lan", "route", "add", "10.61.1.0/24", "via", HOST)
    for address, port in ((HOST, 22), (HOST2, 8080), (HOST, 8011), (GUEST, 80), (GUEST, 22)):
        assert not host.tcp("lan", address, port).open
    assert not host.tcp("lan", HOST6, 8005).open
    assert host.gone(xml) == (0, "")
    assert not host.tcp("lan", HOST, 8080).open
    assert (host.rules(), host.receipts()) == (before, [])


ISOLATED_FORWARDS = """
import sys; sys.path.insert(0, sys.argv[1])
from libvirt_guestnet.doctor import facts as doctor
from libvirt_guestnet.hook.enforce import forwards
from libvirt_guestnet.state.locked import UnlockedState
print({bridge: sorted(versions) for bridge, versions in doctor.isolated_forwards(UnlockedState().forwards()).items()})
"""


def test_an_isolated_port_and_its_neighbour_where_bridged_frames_pass_iptables(host: LanHost) -> None:
    """What plan and doctor say is so: the kernel leads the translated frame back over the bridge, and drops it."""
    if host.box.run("test", "-e", "/proc/sys/net/bridge").returncode:
        pytest.skip("this kernel has no br_netfilter: modprobe br_netfilter")
    assert host.started(start(FORWARDS)) == [(0, "")] * 2
    library = str(Path(__file__).parents[2])
    found = ["env", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", ISOLATED_FORWARDS, library]
    assert host.box.ok(*found) == "{}\n"
    for port in ("vnet1", "near0"):
        host.box.ok("ip", "link", "set", port, "type", "bridge_slave", "isolated", "on")
    assert host.box.ok(*found) == "{'virbr1': [4, 6]}\n"
    for family, address, shown in (("iptables", HOST, "10.61.1.1"), ("ip6tables", HOST6, "fd61:1::1")):
        switch = f"/proc/sys/net/bridge/bridge-nf-call-{family}"
        assert seen(host.tcp("near", address, 8080)) == shown
        host.box.ok("sh", "-c", f"echo 1 > {switch}")
        assert not host.tcp("near", address, 8080).open
        assert host.tcp("lan", address, 8080).open
        host.box.ok("sh", "-c", f"echo 0 > {switch}")
        assert seen(host.tcp("near", address, 8080)) == shown


def test_a_guest_that_would_not_answer_through_the_host_sees_the_host(host: LanHost) -> None:
    host.box.ok("ip", "-n", "guest", "route", "del", "default")
    xml = start(FORWARDS.replace('first="80"/>', 'first="80" hide="yes"/>'))
    assert host.started(xml) == [(0, "")] * 2
    assert seen(host.tcp("lan", HOST, 8080)) == "10.61.1.1"
    assert seen(host.tcp("host", HOST, 8080)) == "10.61.1.1"


def test_what_another_guest_has_is_refused_by_name(host: LanHost) -> None:
    assert host.started(start(FORWARDS)) == [(0, "")] * 2
    plug = (
        "ip link add vnet7 type veth peer name eth7 && ip link set vnet7 master virbr1 up; ip tuntap add vnet6 mode tap"
    )
    host.box.ok("sh", "-c", plug)
    rules = host.rules()
    wanted = {
        f'<guestnet:forward at="{HOST}" protocol="tcp" ports="8080" to="{NEAR}"/>': "tcp/8080 at 198.18.1.1",
        f'<guestnet:forward protocol="tcp" ports="8010-8020" to="{NEAR}"/>': "tcp/8010-8020",
        f'<guestnet:forward at="{HOST2}" protocol="udp" ports="6900-7000" to="{NEAR}"/>': "udp/6900-7000 at 198.18.1.2",
    }
    near = f'<guestnet:address ip="{NEAR}"/>'
    for forwards, message in wanted.items():
        other = start(near + forwards, b"61000009-", b"other").replace(b"vnet1", b"vnet7").replace(b"vnet0", b"vnet6")
        status, stderr = host.call("qemu", "other", "start", "begin", other)
        assert status == 1
        assert f"guest 'other': {message} is already forwarded to guest 'guesta'" in stderr
        assert host.call("qemu", "other", "release", "end", other) == (0, "")
        assert host.rules() == rules
    # Once the first is gone, even if nobody heard of it, the other has it.
    host.box.ok("ip", "link", "del", "vnet1")
    first = start(near + next(iter(wanted)), b"61000009-", b"other")
    other = first.replace(b"vnet1", b"vnet7").replace(b"vnet0", b"vnet6")
    assert host.started(other, "other") == [(0, "")] * 2
    assert NEAR in host.box.ok("nft", "list", "table", "inet", "guestnet")
    assert GUEST not in host.box.ok("nft", "list", "table", "inet", "guestnet")


def test_what_the_host_listens_on_is_refused_by_name(host: LanHost) -> None:
    listeners = (("tcp", 8005, "tcp/8000-8010 at 198.18.1.1"), ("udp", 7001, "udp/7000-7002"))
    for protocol, port, message in listeners:
        with agent(host.root / "server", ["nsenter", "-t", host.box.pid, "--net", "--mount", "--"]) as server:
            server.listen(**{protocol: [port]})
            status, stderr = host.call("qemu", "guesta", "start", "begin", start(FORWARDS))
            assert (status, host.receipts()) == (
                1,
                ["61000001-0000-4000-8000-000000000001.json", "vnet0.json", "vnet1.json"],
            )
            assert f"guest 'guesta': {message} cannot be forwarded: perl (process " in stderr
            assert f"listens on {protocol}/{port}" in stderr
            assert host.gone(start(FORWARDS)) == (0, "")
    assert host.started(start(FORWARDS)) == [(0, "")] * 2
    # Who comes later is the one to go: a running guest stays reachable, and its daemon's restart says nothing.
    host.agents["host"].listen(tcp=[8080])
    assert host.call("qemu", "guesta", "reconnect", "begin", start(FORWARDS)) == (0, "")
    assert seen(host.tcp("lan", HOST, 8080)) == LAN


def test_loopback_and_other_addresses_of_the_host_are_no_clash(host: LanHost) -> None:
    places = (("127.0.0.1", 8080), (HOST2, 8005))
    code = f"import socket, time; s = [socket.create_server(a) for a in {places}]; time.sleep(60)"
    argv = ["nsenter", "-t", host.box.pid, "--net", "python3", "-c", code]
    with subprocess.Popen(argv) as process:
        try:
            while ":1F90" not in host.box.ok("cat", "/proc/net/tcp"):
                assert process.poll() is None
            assert host.started(start(FORWARDS)) == [(0, "")] * 2
        finally:
            process.kill()


def test_what_others_take_away_comes_back_with_the_next_call(host: LanHost) -> None:
    xml = start(FORWARDS)
    assert host.started(xml) == [(0, "")] * 2
    rules = host.rules()
    for damage in (
        "nft delete table inet guestnet",
        "iptables -D FORWARD -j GUESTNET-FORWARD && iptables -F GUESTNET-FORWARD && iptables -X GUESTNET-FORWARD",
        "ip6tables -D FORWARD -j GUESTNET-FORWARD && ip6tables -A FORWARD -j GUESTNET-FORWARD",
    ):
        host.box.ok("sh", "-c", damage)
        assert host.rules() != rules
        assert host.call("qemu", "guesta", "reconnect", "begin", xml) == (0, "")
        assert host.rules() == rules
    # libvirt makes its chains, and puts them first, when the first network starts.
    host.box.ok("iptables", "-I", "FORWARD", "-o", "virbr1", "-j", "REJECT")
    assert not host.tcp("lan", HOST, 8080).open
    hook = with_metadata((DATA / "9.0.0/net-lifecycle/002-network-vlan1-started-begin.xml").read_bytes(), NETWORK)
    assert host.call("network", "vlan1", "started", "begin", hook) == (0, "")
    assert seen(host.tcp("lan", HOST, 8080)) == LAN


def test_forwards_change_under_a_running_guest(host: LanHost) -> None:
    """As `apply` and `hooks sync` do it, since libvirt calls no hook for metadata."""
    assert host.started(start(FORWARDS)) == [(0, "")] * 2
    changed = start(f'<guestnet:forward at="{HOST}" protocol="tcp" ports="9090" to="{GUEST}" first="80"/>')
    assert host.call("qemu", "guesta", "reconnect", "begin", changed) == (0, "")
    assert seen(host.tcp("lan", HOST, 9090)) == LAN
    assert not host.tcp("lan", HOST, 8080).open
    assert host.call("qemu", "guesta", "reconnect", "begin", start("")) == (0, "")
    assert not host.tcp("lan", HOST, 9090).open
    assert "inet guestnet" not in host.rules()


LIMITED = f"""
  <guestnet:forward at="{HOST}" protocol="tcp" ports="8080" to="{GUEST}" first="80" from="192.0.2.0/24,{LAN}"/>
  <guestnet:forward at="{HOST6}" protocol="tcp" ports="8080" to="{GUEST6}" first="80" from="{LAN6}/128"/>
  <guestnet:forward at="{HOST}" protocol="tcp" ports="8000-8010" to="{GUEST}" from="{LAN}/31"/>
  <guestnet:forward protocol="udp" ports="7000-7002" to="{GUEST}" first="7100" from="198.18.1.8/29"/>
  <guestnet:forward protocol="udp" ports="53" to="{GUEST6}" from="{LAN6},fd62::/16"/>
  <guestnet:forward protocol="udp" ports="5300" to="{GUEST}" first="53"/>
"""
ASKED = ((HOST, "tcp", 8080), (HOST6, "tcp", 8080), (HOST, "tcp", 8005), (HOST2, "udp", 7000), (HOST6, "udp", 53))


def outcomes(host: LanHost, who: str) -> list[str]:
    return [getattr(host, protocol)(who, address, port).outcome for address, protocol, port in ASKED]


def move(host: LanHost, address: str, address6: str) -> None:
    """The client on the LAN has another address from now on."""
    host.box.ok("ip", "-n", "lan", "addr", "flush", "dev", "eth0", "scope", "global")
    host.box.ok("ip", "-n", "lan", "addr", "add", f"{address}/24", "dev", "eth0")
    host.box.ok("ip", "-n", "lan", "addr", "add", f"{address6}/64", "dev", "eth0", "nodad")


def test_a_forward_leads_only_the_clients_that_it_is_for(host: LanHost) -> None:
    assert host.started(start(LIMITED)) == [(0, "")] * 2
    assert outcomes(host, "lan") == ["open"] * 5
    assert seen(host.tcp("lan", HOST, 8080)) == LAN
    # Whoever else asks, asks the host: it has nobody there, and says so. The host and a neighbour are clients, too.
    move(host, "198.18.1.77", "fd61::77")
    for who in ("lan", "host", "near"):
        assert outcomes(host, who) == ["refused"] * 5, who
    assert seen(host.udp("lan", HOST, 5300)) == "198.18.1.77", "a forward beside them is for everybody"
    # What begins to listen on the host later has these clients, and not those of the guest.
    host.agents["host"].listen(tcp=[8080])
    assert seen(host.tcp("lan", HOST, 8080)) == "198.18.1.77"
    host.box.ok("ip", "-n", "guest", "link", "set", "eth0", "down")
    assert seen(host.tcp("lan", HOST, 8080)) == "198.18.1.77"
    move(host, LAN, LAN6)
    assert not host.tcp("lan", HOST, 8080).open


def test_a_client_that_a_forward_is_no_longer_for_is_cut_off(host: LanHost) -> None:
    forward = f'<guestnet:forward at="{HOST}" protocol="tcp" ports="8080" to="{GUEST}" first="80" from="{{}}"/>'
    assert host.started(start(forward.format("198.18.1.0/24"))) == [(0, "")] * 2
    assert seen(host.tcp("lan", HOST, 8080)) == LAN
    assert " dport=8080 " in host.box.ok("cat", "/proc/net/nf_conntrack")
    fewer = start(forward.format("198.18.1.128/25"))
    assert host.call("qemu", "guesta", "reconnect", "begin", fewer) == (0, "")
    assert " dport=8080 " not in host.box.ok("cat", "/proc/net/nf_conntrack")
    assert host.tcp("lan", HOST, 8080).outcome == "refused"
    assert host.call("qemu", "guesta", "reconnect", "begin", start("")) == (0, "")
    assert "inet guestnet" not in host.rules()


@contextmanager
def talking(host: LanHost, program: str) -> Iterator[Callable[..., str]]:
    """The program runs at the guest and at a client. Gives what one of them says next, told a line before if any."""
    enter = ["nsenter", "-t", host.box.pid, "--net", "--mount", "--", "ip", "netns", "exec"]
    with ExitStack() as stack:
        run: dict[str, subprocess.Popen[str]] = {}

        def said(who: str, line: str = "") -> str:
            stdin, stdout = run[who].stdin, run[who].stdout
            assert stdin is not None and stdout is not None
            if line:
                stdin.write(f"{line}\n")
                stdin.flush()
            return stdout.readline().strip()

        for who, address in (("guest", GUEST), ("lan", HOST)):
            argv, pipe = [*enter, who, sys.executable, "-c", program, who, address], subprocess.PIPE
            run[who] = stack.enter_context(subprocess.Popen(argv, text=True, stdin=pipe, stdout=pipe))
            stack.callback(run[who].kill)
            assert said(who) == {"guest": "ready", "lan": "open"}[who]
        yield said


STREAM = """
import socket, sys
role, address = sys.argv[1:]
if role == "guest":
    listener = socket.create_server((address, 8007))
    print("ready", flush=True)
    stream, _ = listener.accept()
else:
    stream = socket.create_connection((address, 8007), 30)
stream.settimeout(3)
print("open", flush=True)
for line in sys.stdin:
    try:
        stream.sendall(b"x") if line.strip() == "send" else None
        print("sent" if line.strip() == "send" else stream.recv(1).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


def test_a_guest_that_goes_on_sending_does_not_keep_such_a_client(host: LanHost) -> None:
    """Its next packet is the first of a new flow for the kernel, and libvirt's masquerade gives it the old address."""
    forward = f'<guestnet:forward at="{HOST}" protocol="tcp" ports="8007" to="{GUEST}" from="{{}}"/>'
    assert host.started(start(forward.format("198.18.1.0/24"))) == [(0, "")] * 2
    with talking(host, STREAM) as said:
        assert said("guest") == "open"
        fewer = start(forward.format("198.18.1.128/25"))
        assert host.call("qemu", "guesta", "reconnect", "begin", fewer) == (0, "")
        assert said("guest", "send") == "sent"
        said("lan", "receive")
        said("lan", "send")
        assert said("guest", "receive") != "x"


DATAGRAMS = """
import socket, sys
role, address = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(3)
if role == "guest":
    s.bind((address, 8007))
    print("ready", flush=True)
else:
    s.connect((address, 8007))
    s.send(b"x")
    print("open", flush=True)
client = None
for line in sys.stdin:
    try:
        if line.strip() == "receive":
            data, sender = s.recvfrom(9)
            client = client or sender
            print(data.decode(), flush=True)
        else:
            s.sendto(b"x", client) if role == "guest" else s.send(b"x")
            print("sent", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("at", [f'at="{HOST}" ', ""])
def test_a_guest_that_goes_on_sending_datagrams_keeps_no_such_client(host: LanHost, at: str) -> None:
    """Datagrams have no beginning by which the guest's own first one would be known."""
    forward = f'<guestnet:forward {at}protocol="udp" ports="8007" to="{GUEST}" from="{{}}"/>'
    assert host.started(start(forward.format("198.18.1.0/24"))) == [(0, "")] * 2
    with talking(host, DATAGRAMS) as said:
        assert said("guest", "receive") == "x"
        assert said("guest", "send") == "sent"
        assert said("lan", "receive") == "x", "it is a client"
        assert [said("lan", "send"), said("guest", "receive")] == ["sent", "x"]
        fewer = start(forward.format("198.18.1.128/25"))
        assert host.call("qemu", "guesta", "reconnect", "begin", fewer) == (0, "")
        assert said("guest", "send") == "sent"
        said("lan", "receive")
        said("lan", "send")
        assert said("guest", "receive") == "TimeoutError"


def test_limited_forwards_may_lead_to_the_same_ports_of_a_guest(host: LanHost) -> None:
    line = f'<guestnet:forward at="{HOST}" protocol="tcp" ports="{{}}" to="{GUEST}" first="{{}}" from="{{}}"/>'
    lines = (("8010-8020", 80, "198.18.1.0/24"), ("8081", 85, "198.18.2.0/24"), ("8100", 90, "198.18.3.7/32"))
    assert host.started(start("".join(line.format(*each) for each in lines))) == [(0, "")] * 2
    assert f"{GUEST} . 80-90" in " ".join(host.rules().split())


# This kernel may have no SCTP of its own: an INIT and its answer, by hand.
SCTP = """
import socket, struct, sys
role, family, address = sys.argv[1:]
version = {"4": socket.AF_INET, "6": socket.AF_INET6}[family]
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return struct.pack("<I", crc ^ 0xffffffff)
def packet(sport, dport, tag, kind):
    head, chunk = struct.pack("!HHI", sport, dport, tag), struct.pack("!BBHIIHHI", kind, 0, 20, 7, 65536, 1, 1, 1)
    return head + crc32c(head + bytes(4) + chunk) + chunk
def receive():
    data, sender = s.recvfrom(2000)
    data = data[(data[0] & 15) * 4:] if family == "4" else data
    sport, dport = struct.unpack("!HH", data[:4])
    return sender[0], sport, dport, data[12], crc32c(data[:8] + bytes(4) + data[12:]) == data[8:12]
s = socket.socket(version, socket.SOCK_RAW, 132)
s.settimeout(60)
print("ready", flush=True)
if role == "client":
    s.sendto(packet(5000, 36412, 0, 1), (address, 0))
found = receive()
print(*found, flush=True)
if role == "server":
    s.sendto(packet(found[2], found[1], 7, 2), (found[0], 0))
"""


def test_sctp_is_forwarded(host: LanHost) -> None:
    form = '<guestnet:forward at="{}" protocol="sctp" ports="36412" to="{}" first="3000" from="{}"/>'
    ways = {"4": (HOST, GUEST, LAN), "6": (HOST6, GUEST6, LAN6)}
    assert host.started(start("".join(form.format(*way) for way in ways.values()))) == [(0, "")] * 2
    enter = ["nsenter", "-t", host.box.pid, "--net", "--mount", "--", "ip", "netns", "exec"]
    with ExitStack() as stack:

        def run(where: str, role: str, family: str) -> subprocess.Popen[str]:
            argv = [*enter, where, sys.executable, "-c", SCTP, role, family, ways[family][0]]
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
            return process

        for family, (at, _, client) in ways.items():
            server = run("guest", "server", family)
            answer = run("lan", "client", family)
            assert server.stdout.readline().split() == [client, "5000", "3000", "1", "True"]
            assert answer.stdout.readline().split() == [at, "36412", "5000", "2", "True"]


def test_clients_that_cannot_be_read_refuse_the_start(host: LanHost) -> None:
    before = host.rules()
    for clients in ("", "fd61::/64", f"{LAN}/24", f"{LAN};drop", ",".join([LAN] * 65)):
        forward = f'<guestnet:forward at="{HOST}" protocol="tcp" ports="8080" to="{GUEST}" from="{clients}"/>'
        status, stderr = host.call("qemu", "guesta", "start", "begin", start(forward))
        assert (status, host.rules()) == (1, before), stderr


def test_a_floating_address_is_the_guests_in_both_directions(host: LanHost) -> None:
    before = host.rules(), host.routes()
    xml = start(FLOAT)
    assert host.call("qemu", "guesta", "start", "begin", xml) == (0, "")
    assert host.agents["lan"].neighbour(FLOATING) is None, "nobody is there yet"
    assert host.call("qemu", "guesta", "started", "begin", xml) == (0, "")
    # The LAN resolves it to the host's own MAC address.
    assert host.agents["lan"].neighbour(FLOATING) == host.agents["lan"].neighbour(HOST) is not None
    # The kernel puts its answer for others off by up to 0.8 s (proxy_delay).
    assert host.agents["lan"].neighbour(FLOATING6, 15) == host.agents["lan"].neighbour(HOST6, 15)
    assert (seen(host.tcp("lan", FLOATING, 22)), seen(host.tcp("lan", FLOATING6, 22))) == (LAN, LAN6)
    assert (seen(host.udp("lan", FLOATING, 53)), seen(host.udp("lan", FLOATING6, 53))) == (LAN, LAN6)
    assert host.agents["lan"].ping(FLOATING, count=2).received > 0
    assert host.agents["lan"].ping(FLOATING6, count=2).received > 0
    assert seen(host.tcp("host", FLOATING, 22)) == "10.61.1.1"
    assert seen(host.tcp("host", FLOATING6, 22)) == "fd61:1::1"
    assert seen(host.tcp("near", FLOATING, 22)) == "10.61.1.1"
    assert seen(host.tcp("guest", FLOATING, 22)) == FLOATING, "the guest reaches itself"
    # What the guest sends outside comes from there; what its neighbour sends, from the host.
    host.agents["lan"].listen(tcp=[80], udp=[53])
    assert seen(host.tcp("guest", LAN, 80)) == FLOATING
    assert seen(host.tcp("guest", LAN6, 80)) == FLOATING6
    assert seen(host.udp("guest", LAN, 53)) == FLOATING
    assert seen(host.tcp("near", LAN, 80)) == HOST
    assert not host.tcp("lan", HOST, 22).open
    # A restart of the daemon changes nothing; the end of the guest takes everything along.
    there = host.rules(), host.routes()
    assert host.call("qemu", "guesta", "reconnect", "begin", xml) == (0, "")
    assert (host.rules(), host.routes()) == there
    assert host.call("qemu", "guesta", "release", "end", xml) == (0, "")
    assert (host.rules(), host.routes(), host.receipts()) == (*before, [])
    assert host.agents["lan"].neighbour(FLOATING) is None


SENDER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 4444))
s.settimeout(0.5)
for line in sys.stdin:
    s.sendto(b"x", (line.strip(), 5300))
    try:
        print(s.recv(100).decode().strip(), flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""


def test_who_keeps_sending_reaches_who_is_there_now(host: LanHost) -> None:
    """The kernel translates a flow as it did its first packet, for as long as somebody sends."""
    enter = ["nsenter", "-t", host.box.pid, "--net", "--mount", "--", "ip", "netns", "exec", "lan"]
    with subprocess.Popen(
        [*enter, "python3", "-c", SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sender:

        def ask() -> str:
            sender.stdin.write(f"{HOST}\n")
            sender.stdin.flush()
            return sender.stdout.readline().strip()

        try:
            host.agents["near"].listen(udp=[53])
            assert ask() == "nothing"  # now the flow is known, and is the host's own
            xml = start(FORWARDS)
            assert host.started(xml) == [(0, "")] * 2
            assert ask() == f"{LAN} 4444"
            assert host.gone(xml) == (0, "")
            assert ask() == "nothing"
            near = f'<guestnet:address ip="{NEAR}"/>'
            other = start(f'{near}<guestnet:forward protocol="udp" ports="5300" to="{NEAR}" first="53"/>')
            assert host.started(other) == [(0, "")] * 2
            assert ask() == f"{LAN} 4444"
            host.box.ok("ip", "-n", "near", "link", "set", "eth0", "down")
            assert ask() == "nothing", "it was the other one"
        finally:
            sender.kill()


def test_sessions_go_on_when_other_ways_change(host: LanHost) -> None:
    assert host.started(start(FORWARDS)) == [(0, "")] * 2
    assert seen(host.udp("lan", HOST, 5300)) == LAN
    more = FORWARDS + f'<guestnet:forward at="{HOST}" protocol="tcp" ports="9999" to="{GUEST}"/>'
    assert host.call("qemu", "guesta", "reconnect", "begin", start(more)) == (0, "")
    assert " dport=5300 " in host.box.ok("cat", "/proc/net/nf_conntrack")
    assert host.call("qemu", "guesta", "reconnect", "begin", start("")) == (0, "")
    assert " dport=5300 " not in host.box.ok("cat", "/proc/net/nf_conntrack")
