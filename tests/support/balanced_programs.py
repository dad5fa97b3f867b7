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
