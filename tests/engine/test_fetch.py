"""Pictures fetched by https, against real TLS servers on this machine: one address stands for the public internet."""

from __future__ import annotations

import asyncio
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_decoder import saved
from test_generate import picture
from test_server import Running, expected, words

from open4ov.engine.serving.fetch import BadUrl, Fetcher, NotFetched, public

OUTSIDE, INSIDE, SILENT = "127.0.0.5", "127.0.0.1", "127.0.0.6"
"""What stands for a public address, a private one, and a public one where nothing listens"""
PNG = saved(picture(1), "PNG")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: Any = self.server
        site.asked.append((self.path, self.headers["Host"]))
        path, _, query = self.path.partition("?")
        try:
            {"/to": self.redirect, "/endless": self.endless, "/slow": self.slow, "/large": self.large}.get(
                path, self.picture
            )(query)
        except OSError:  # who fetched has left
            self.close_connection = True

    def picture(self, query: str) -> None:
        known = self.path in ("/a.png", "/short")
        self.send_response(200 if known else 404)
        self.send_header("content-type", "text/html")  # nobody looks
        self.send_header("content-length", str(len(PNG) + 100 * (self.path == "/short")))
        self.end_headers()
        self.wfile.write(PNG)
        self.close_connection = self.path == "/short"

    def redirect(self, query: str) -> None:
        self.send_response(302)
        self.send_header("location", query.replace("%P", str(self.server.server_address[1])).replace("%5C", "\\"))
        self.send_header("content-length", "0")
        self.end_headers()

    def endless(self, query: str) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def slow(self, query: str) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def large(self, query: str) -> None:
        self.send_response(200)
        self.send_header("content-length", str(10**12))
        self.end_headers()
        self.wfile.write(PNG)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Site:
    """A TLS server for pictures.test and other.test on OUTSIDE, and on INSIDE, at the same port, a trap."""

    def __init__(self, directory: Path) -> None:
        make_certificates(directory)
        self.server = http.server.ThreadingHTTPServer((OUTSIDE, 0), Handler)
        self.server.asked = self.asked = []  # type: ignore[attr-defined]
        self.names: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "cert.pem", directory / "cert.key")
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.trust = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        self.trap = socket.create_server((INSIDE, self.port))
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def url(self, path: str, host: str = "pictures.test") -> str:
        return f"https://{host}:{self.port}{path}"

    def sprung(self) -> bool:
        """Whether anything has connected to the trap."""
        self.trap.settimeout(0.05)
        try:
            self.trap.accept()[0].close()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.trap.close()


def make_certificates(directory: Path) -> None:
    """An authority of our own, and a certificate for pictures.test and other.test."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (directory / "names").write_text("subjectAltName=DNS:pictures.test,DNS:other.test")
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority"],
        ["req", *key, "-keyout", "cert.key", "-out", "request", "-subj", "/CN=pictures.test"],
        ["x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "cert.pem"],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=directory, check=True, capture_output=True)


class Names:
    """A resolver: what each name's addresses are, one time after the other; the last answer stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror
        found = self.answers[host]
        return found.pop(0) if len(found) > 1 else found[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command for a certificate of its own")
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


def fetcher(site: Site, names: Names | None = None, **options: Any) -> Fetcher:
    options = {"seconds": 60.0, "trust": site.trust, **options}
    resolve = names or Names(pictures_test=[[OUTSIDE]])
    return Fetcher(resolve=resolve, allowed=lambda ip: ip in (OUTSIDE, SILENT) or public(ip), port=site.port, **options)


def fetched(source: Fetcher, url: str) -> bytes:
    return asyncio.run(asyncio.wait_for(source.fetch(url), 90))


def not_fetched(source: Fetcher, url: str) -> None:
    with pytest.raises(NotFetched) as caught:
        fetched(source, url)
    assert str(caught.value) == ""


PRIVATE = """127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 192.88.99.1
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:a00:1 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd12::1 ff02::1
64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 2002:7f00:1:: 2002:808:808:: 2001::1 2001:db8::1 100::1 4000::1
localhost 1 0x7f000001 8.8.8.8.8 08.8.8.8"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_addresses_that_are(address: str) -> None:
    assert public(address)


BAD = [
    "http://pictures.test/a.png", "ftp://pictures.test/a.png", "file:///etc/passwd", "//pictures.test/a.png",
    "a.png", "", "https:///a.png", "https:pictures.test/a.png", "https://user@pictures.test/",
    "https://user:word@pictures.test/", "https://pictures.test@127.0.0.1/", "https://pictures.test\\@127.0.0.1/",
    "https://127.0.0.1\\@pictures.test/", "https://pictures.test\\.evil.test/", "https://pictures.test:80/",
    "https://pictures.test:22/", "https://pictures.test:/", "https://pictures.test:99999/",
    "https://pictures.test:-1/", "https://pictures.test:4 43/", "https://127.0.0.1/", "https://8.8.8.8/",
    "https://2130706433/", "https://0x7f.1/", "https://127.1/", "https://[::1]/", "https://[::ffff:8.8.8.8]/",
    "https://[fe80::1%25eth0]/", "https://[/", "https://pictures..test/", "https://-pictures.test/",
    "https://pictures.test/ a", "https://pictures.test/\r\nHost: inside", "https://pictures.test/\x00",
    "https://pictures.test\t/", " https://pictures.test/", "https://pıctures.test/",
    "https://pictures.test。evil.test/", "https://xn--\ud800.test/", "https://pictures%2etest/",
    f"https://pictures.test/{'a' * 3000}", f"https://{'a' * 64}.test/", "https://pictures_test/",
    "HTTPS://[pictures.test]/",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_urls_that_are_never_fetched(url: str) -> None:
    names = Names()
    with pytest.raises(BadUrl):
        fetched(Fetcher(resolve=names), url)
    assert names.asked == []


def test_a_picture_is_fetched_by_name_from_the_address_that_was_checked(site: Site) -> None:
    names = Names(pictures_test=[[OUTSIDE], [INSIDE]])  # rebinding: a second look would lead inside
    site.asked.clear()
    site.names.clear()
    assert fetched(fetcher(site, names), site.url("/a.png")) == PNG
    assert names.asked == ["pictures.test"]
    assert site.names == ["pictures.test"]
    assert site.asked == [("/a.png", f"pictures.test:{site.port}")]
    assert not site.sprung()


def test_redirects_are_followed_and_each_is_checked(site: Site) -> None:
    both = Names(pictures_test=[[OUTSIDE]], other_test=[[OUTSIDE]], inside_test=[[INSIDE]])
    assert fetched(fetcher(site, both), site.url("/to?/a.png")) == PNG
    assert fetched(fetcher(site, both), site.url("/to?https://other.test:%P/a.png")) == PNG
    for target in (
        "https://inside.test:%P/a.png",
        "https://127.0.0.1:%P/a.png",
        "http://other.test:%P/a.png",
        "https://other.test/a.png",
        "https://me@other.test:%P/a.png",
        "file:///etc/passwd",
        "https://other.test:%P%5C@inside.test/",
        "/to?/to?/to?/to?/a.png",
    ):
        not_fetched(fetcher(site, both), site.url(f"/to?{target}"))
    only = fetcher(site, both, hosts=["Pictures.Test"])
    assert fetched(only, site.url("/to?/a.png")) == PNG
    not_fetched(only, site.url("/to?https://other.test:%P/a.png"))
    with pytest.raises(BadUrl):
        fetched(only, site.url("/a.png", "other.test"))
    assert not site.sprung()


def test_a_name_that_is_rebound_between_redirects_is_refused(site: Site) -> None:
    names = Names(pictures_test=[[OUTSIDE], [INSIDE]])
    not_fetched(fetcher(site, names), site.url("/to?/a.png"))
    assert names.asked == ["pictures.test"] * 2
    assert not site.sprung()


def test_one_private_address_among_others_is_enough(site: Site) -> None:
    for found in ([OUTSIDE, INSIDE], [INSIDE, OUTSIDE], [INSIDE], ["::1"], ["::ffff:127.0.0.1"], []):
        not_fetched(fetcher(site, Names(pictures_test=[found])), site.url("/a.png"))
    assert not site.sprung()


def test_certificates_are_checked(site: Site) -> None:
    names = Names(pictures_test=[[OUTSIDE]], wrong_test=[[OUTSIDE]])
    not_fetched(fetcher(site, names), site.url("/a.png", "wrong.test"))
    not_fetched(fetcher(site, names, trust=None), site.url("/a.png"))


def test_bytes_and_time_have_limits_in_all(site: Site) -> None:
    assert fetched(fetcher(site, max_bytes=len(PNG)), site.url("/a.png")) == PNG
    not_fetched(fetcher(site, max_bytes=len(PNG) - 1), site.url("/a.png"))
    not_fetched(fetcher(site, max_bytes=10**6), site.url("/endless"))
    not_fetched(fetcher(site), site.url("/large"))
    not_fetched(fetcher(site), site.url("/short"))
    not_fetched(fetcher(site, seconds=1.0), site.url("/slow"))


def test_over_the_api_all_that_goes_wrong_has_the_same_words(site: Site, tiny_dir: Path) -> None:
    names = Names(pictures_test=[[OUTSIDE]], inside_test=[[INSIDE]], silent_test=[[SILENT]])
    server = Running(tiny_dir, serving={"fetcher": fetcher(site, names)})
    try:
        status, content = server.post(messages=words("what?", site.url("/a.png")), temperature=0, max_tokens=4)
        assert status == 200
        assert content["choices"][0]["message"]["content"] == expected(server, "what?", picture(1), max_tokens=4)[0]
        said = set()
        for host, path in (
            ("inside.test", "/a.png"),
            ("silent.test", "/a.png"),
            ("nowhere.test", "/a.png"),
            ("pictures.test", "/none"),
            ("pictures.test", "/to?https://inside.test/"),
        ):
            status, content = server.post(messages=words("what?", site.url(path, host)))
            said.add((status, content["error"]["message"]))
        assert said == {(400, "the image could not be fetched")}
        status, content = server.post(messages=words("what?", "https://127.0.0.1/a.png"))
        assert (status, content["error"]["param"]) == (400, "messages.0.content.0.image_url.url")
        assert not site.sprung()
    finally:
        server.close()
