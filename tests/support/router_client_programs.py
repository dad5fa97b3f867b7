"""Programs that tests of the router run in a guest's namespace: a DHCPv6 client, and a stream that notes each gap."""

from __future__ import annotations

DHCP6 = r"""
import sys
from scapy.all import *
nic, mac, duid_mac = sys.argv[1:4]
conf.verb = 0
ll = [a.split("/")[0] for a in sys.argv[4:]][0]
duid = DHCP6OptClientId(duid=DUID_LL(lladdr=duid_mac))
head = Ether(src=mac, dst="33:33:00:01:00:02") / IPv6(src=ll, dst="ff02::1:2") / UDP(sport=546, dport=547)
def ask(message, *options):
    message.trid = random.randrange(1 << 24)
    packet = head / message / duid / DHCP6OptElapsedTime()
    for option in options:
        packet = packet / option
    socket = conf.L2socket(iface=nic)
    for _ in range(20):
        socket.send(packet)
        found = sniff(opened_socket=socket, timeout=3, count=1,
            lfilter=lambda p: (DHCP6_Advertise in p or DHCP6_Reply in p) and p[UDP].payload.trid == message.trid)
        if found:
            return found[0]
    sys.exit("no answer")
wants = DHCP6OptIA_NA(iaid=1)
offer = ask(DHCP6_Solicit(), wants, DHCP6OptOptReq(reqopts=[23]))
server = DHCP6OptServerId(duid=offer[DHCP6OptServerId].duid)
given = offer[DHCP6OptIAAddress].addr
reply = ask(DHCP6_Request(), server, DHCP6OptIA_NA(iaid=1, ianaopts=[DHCP6OptIAAddress(addr=given)]),
    DHCP6OptOptReq(reqopts=[23]))
print(reply[DHCP6OptIAAddress].addr, *reply[DHCP6OptDNSServers].dnsservers)
"""

ECHO = r"""
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("listens", flush=True)
client, _ = server.accept()
while data := client.recv(65536):
    client.sendall(data)
"""

STREAM = r"""
import select, socket, sys, time
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
client.settimeout(60)
print("streams", flush=True)
sent, longest = 0, 0.0
while not select.select([sys.stdin], [], [], 0.02)[0]:
    began = time.monotonic()
    client.sendall(b"%08d" % sent)
    got = b""
    while len(got) < 8:
        part = client.recv(8 - len(got))
        if not part:
            sys.exit("ended")
        got += part
    assert got == b"%08d" % sent, got
    sent, longest = sent + 1, max(longest, time.monotonic() - began)
print(sent, "%.3f" % longest)
"""
