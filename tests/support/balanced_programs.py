"""Programs that tests of a router's load balancer run in namespaces: members that say who they are, and clients."""

from __future__ import annotations

SERVER = r"""
import asyncio, socket, sys
name, port, udp_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def serve(reader, writer):
    writer.write(f"{name} {writer.get_extra_info('peername')[0]}\n".encode())
    try:
        while data := await reader.readline():
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, peer): self.transport.sendto(f"{name} {peer[0]}\n".encode(), peer)
async def main():
    plain = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    await asyncio.start_server(serve, sock=plain)
    both = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    both.bind(("::", udp_port))
    await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, sock=both)
    print("listens", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

ASK = r"""
# address port count [source]: a connection after the other; what the member said, or the error
import socket, sys
for _ in range(int(sys.argv[3])):
    try:
        source = (sys.argv[4], 0) if sys.argv[4:] else None
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30, source) as client:
            client.settimeout(30)
            print(client.recv(100).decode().strip())
    except OSError as error:
        print(type(error).__name__)
"""

ASK_UDP = r"""
# address port count [same]: from a new port each time, or all from one
import socket, sys, time
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
client = None
for _ in range(count):
    if client is None or not sys.argv[4:]:
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.connect((address, port))
        client.settimeout(5)
    try:
        client.send(b"?")
        print(client.recv(100).decode().strip(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
        time.sleep(0.2)
    if sys.argv[4:]:
        time.sleep(float(sys.argv[4]))
"""

HOLD = r"""
# address port count: connections that stay open until standard input ends; then each must still answer
import socket, sys
held = []
for _ in range(int(sys.argv[3])):
    client = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
    held.append(client.makefile("rwb"))
    print(held[-1].readline().decode().strip(), flush=True)
print("holds", flush=True)
sys.stdin.read()
for each in held:
    each.write(b"still\n")
    each.flush()
    assert each.readline() == b"still\n"
print("all answer", flush=True)
"""

FLOOD_DNS = r"""
# server seconds: questions for names that no forwarder answers, as fast as it goes
import random, socket, struct, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.setblocking(False)
until, sent = time.monotonic() + float(sys.argv[2]), 0
print("floods", flush=True)
while time.monotonic() < until:
    name = b"%08x" % random.randrange(1 << 32)
    question = struct.pack("!HHHHHH", sent % 65536, 0x0100, 1, 0, 0, 0)
    question += b"\x08" + name + b"\x04slow\x07example\0\0\1\0\1"
    try:
        client.sendto(question, (sys.argv[1], 53))
        sent += 1
    except BlockingIOError:
        pass
    time.sleep(0.001)
print(sent, flush=True)
"""

ASK_DNS = r"""
# server count: forwarded names that nobody asked for before; the longest answer in seconds, or what went wrong
import os, socket, sys, time
longest = 0.0
for number in range(int(sys.argv[2])):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((sys.argv[1], 53))
    client.settimeout(30)
    name = os.urandom(4).hex().encode()
    began = time.monotonic()
    client.send(os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0\x08" + name + b"\7example\3org\0\0\1\0\1")
    answer = client.recv(512)
    longest = max(longest, time.monotonic() - began)
    if answer[3] & 15 or not answer[7]:
        sys.exit("refused: %d" % (answer[3] & 15))
    time.sleep(0.1)
print("%.3f" % longest)
"""

FLOOD_CONNECTIONS = r"""
# count: UDP to so many addresses on the public side, a connection each
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[1])):
    client.sendto(b"?", ("198.18.%d.%d" % (number // 250, number % 250 + 1), 53))
    if number % 20 == 0:
        time.sleep(0.015)  # an emulated router loses what comes faster
"""

FLOOD_DHCP = r"""
# mac seconds: discovers with a new client identifier each
import os, sys, time
from scapy.all import *
mac, until, sent = sys.argv[1], time.monotonic() + float(sys.argv[2]), 0
socket = conf.L2socket(iface="net0")
print("floods", flush=True)
while time.monotonic() < until:
    socket.send(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67) / BOOTP(chaddr=mac2str(mac), xid=random.randrange(1 << 32))
        / DHCP(options=[("message-type", "discover"), ("client_id", os.urandom(8)), "end"]))
    sent += 1
print(sent, flush=True)
"""

CYCLE_DUIDS = r"""
# mac link-local count associations: a DUID each time, and so many associations in it; the addresses that were given.
# Whoever asks for no address is always answered, and after all others: so nobody has to guess how long a refusal takes.
import os, sys
from scapy.all import *
mac, link_local, count, associations = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
conf.verb = 0
LAST = 0xffffff
socket = conf.L2socket(iface="net0")
def send(message):
    packet = Ether(src=mac, dst="33:33:00:01:00:02") / IPv6(src=link_local, dst="ff02::1:2")
    socket.send(packet / UDP(sport=546, dport=547) / message)
def solicit(number):
    message = DHCP6_Solicit(trid=number + 1)
    message = message / DHCP6OptClientId(duid=DUID_UUID(uuid=os.urandom(16))) / DHCP6OptRapidCommit()
    for association in range(associations):
        message = message / DHCP6OptIA_NA(iaid=association + 1)
    send(message)
given = {}
def hear(seconds):
    for reply in sniff(opened_socket=socket, timeout=seconds, count=1, lfilter=lambda p: DHCP6_Reply in p):
        addresses, layer = [], 1
        while found := reply.getlayer(DHCP6OptIAAddress, layer):
            addresses.append(found.addr)
            layer += 1
        given[reply[DHCP6_Reply].trid] = addresses
for number in range(count):
    solicit(number)
    hear(0.2)
for _ in range(60):
    if LAST in given:
        break
    send(DHCP6_InfoRequest(trid=LAST) / DHCP6OptClientId(duid=DUID_UUID(uuid=bytes(16))) / DHCP6OptElapsedTime())
    hear(1)
else:
    sys.exit(f"nobody answers any more, but {given}")
print(*(address for addresses in given.values() for address in addresses))
"""
