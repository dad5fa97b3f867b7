"""The metadata service of a virtual router, as its appliance runs it: each guest is told its own, whatever it sends."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.router_config import ROUTER
from support.taps import ip

from libvirt_guestnet import parse
from libvirt_guestnet.model.router import GuestMetadata
from libvirt_guestnet.router import metadata
from libvirt_guestnet.router.document import document

pytestmark = pytest.mark.usefixtures("namespace")

SERVER = Path(metadata.__file__).parent / "data/metadata"
WEB, WEB6, OTHER, STRANGER = "10.1.1.10", "fd13:1::10", "10.1.2.10", "10.1.1.99"
BINARY = "".join(map(chr, range(1, 128))) + "ü€" * 3000  # of UTF-8, that is 15 KiB


def told(web: str = BINARY) -> str:
    """The service's file: of two guests."""
    keys = (("latest/meta-data/public-keys", "0=key-0"), ("latest/meta-data/public-keys/0/openssh-key", "ssh-rsa X"))
    guests = (
        GuestMetadata(
            (parse.address(WEB), parse.address(WEB6)),
            (("user-data", web), ("meta-data", "web"), ("latest/meta-data/instance-id", "i-web"), *keys),
        ),
        GuestMetadata((parse.address(OTHER),), (("user-data", ""), ("meta-data", "other"))),
    )
    return document(replace(ROUTER, metadata=guests)).metadata


class Service:
    """The server in a namespace where all the addresses are this host's."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "metadata"
        self.write(told())
        ip("link set lo up")
        for address in (WEB, OTHER, STRANGER, WEB6, *metadata.ADDRESSES):
            ip(f"addr add {address} dev lo{' nodad' if ':' in address else ''}")
        self.process = subprocess.Popen(["perl", str(SERVER), str(self.file)])
        self.wait()

    def write(self, text: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(text)
        os.chown(new, 101, 101)
        new.chmod(0o600)
        new.replace(self.file)

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("169.254.169.254", 80), 5, (STRANGER, 0)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def ask(
        self, path: str, source: str = WEB, verb: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and body."""
        at = metadata.ADDRESSES[":" in source]
        connection = http.client.HTTPConnection(at, 80, timeout=60, source_address=(source, 0))
        connection.request(verb, path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body


@pytest.fixture
def service(namespace: None) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are its user's alone, and the server is not root
        Path(folder).chmod(0o755)
        made = Service(Path(folder))
        yield made
        made.process.kill()
        made.process.wait()


def test_each_is_told_its_own_by_both_families(service: Service) -> None:
    for source in (WEB, WEB6):
        assert service.ask("/user-data", source) == (200, BINARY)
        assert service.ask("/latest/meta-data/instance-id", source) == (200, "i-web")
    assert service.ask("/meta-data", OTHER) == (200, "other")
    assert service.ask("/user-data", OTHER) == (200, "")
    assert service.ask("/latest/meta-data/instance-id", OTHER)[0] == 404


def test_nobody_is_told_anothers_whatever_it_sends(service: Service) -> None:
    names = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Host", "True-Client-IP", "X-Instance-ID", "Via")
    lies = {name: "for=10.1.1.10" if name == "Forwarded" else WEB for name in names}
    assert service.ask("/meta-data", OTHER, headers=lies) == (200, "other")
    assert service.ask("/meta-data", STRANGER, headers=lies) == (404, "")
    for path in ("/../metadata", "/latest/../../10.1.1.10/user-data", "//user-data", "/user-data%00", "/etc/passwd"):
        assert service.ask(path, STRANGER) == (404, "")
        assert service.ask(path, OTHER)[1] == ""


def test_folders_are_listed_as_at_ec2(service: Service) -> None:
    assert service.ask("/") == (200, "latest/\n")
    for version in ("latest", "2009-04-04", "2021-03-23", "1.0"):
        assert service.ask(f"/{version}/meta-data/") == (200, "instance-id\npublic-keys/\n")
        assert service.ask(f"/{version}/meta-data/public-keys/") == (200, "0=key-0")
        assert service.ask(f"/{version}/meta-data/public-keys/0/") == (200, "openssh-key\n")
        assert service.ask(f"/{version}/meta-data/public-keys/0/openssh-key") == (200, "ssh-rsa X")
    assert service.ask("/2009-04-04/meta-data/absent")[0] == 404


def test_a_token_is_given_and_taken(service: Service) -> None:
    asked = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
    status, token = service.ask("/latest/api/token", verb="PUT", headers=asked)
    assert (status, len(token)) == (200, 32)
    given = {"X-aws-ec2-metadata-token": token}
    assert service.ask("/latest/meta-data/instance-id", headers=given) == (200, "i-web")
    assert service.ask("/latest/api/token", verb="PUT", headers={**asked, "X-Forwarded-For": "x"})[0] == 403
    assert service.ask("/latest/api/token", STRANGER, verb="PUT", headers=asked)[0] == 404


def test_other_verbs_and_no_requests_are_refused(service: Service) -> None:
    for verb in ("POST", "DELETE", "PUT"):
        assert service.ask("/user-data", verb=verb)[0] == 405
    assert service.ask("/user-data", verb="HEAD") == (200, "")
    for garbage, status in (
        (b"\0\xff" * 20 + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/3.0\r\n\r\n", b"400"),
        (b"GET /user-data HTTP/1.1\r\nX: " + b"x" * 5000, b"431"),
    ):
        with connected(WEB) as raw:
            raw.sendall(garbage)
            assert raw.recv(100).split()[1] == status
    assert service.ask("/meta-data") == (200, "web")


def connected(source: str) -> socket.socket:
    return socket.create_connection(("169.254.169.254", 80), 30, (source, 0))


def test_who_holds_connections_takes_none_from_others(service: Service) -> None:
    held = [connected(WEB) for _ in range(4)]
    held[0].sendall(b"GET /user-data HT")
    with connected(WEB) as fifth:
        fifth.settimeout(5)
        assert fifth.recv(10) == b""
    assert service.ask("/meta-data", OTHER) == (200, "other")
    began = time.monotonic()
    for each in held:  # for ten seconds, and no longer
        each.settimeout(60)
        assert each.recv(10) == b""
        each.close()
    assert time.monotonic() - began < 50
    assert service.ask("/meta-data") == (200, "web")


def test_what_is_told_changes_live(service: Service) -> None:
    service.write(told("#cloud-config\n"))
    assert service.ask("/user-data") == (200, BINARY)
    service.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while service.ask("/user-data") != (200, "#cloud-config\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_is_not_root_when_it_serves(service: Service) -> None:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    ids = [line.split()[1:] for line in status.splitlines() if line.startswith(("Uid", "Gid", "Groups"))]
    assert ids == [["101"] * 4, ["101"] * 4, []]
