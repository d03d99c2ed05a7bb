"""Certificates and proxies: real https servers and proxies on loopback, with an authority of the test's own."""

import itertools
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import certifi
import pytest
from shapely.geometry import box

from geomap import aoi, grid, pipeline
from geomap.catalog import stac
from geomap.catalog.search import search
from geomap.errors import CatalogUnavailableError, NetworkError, SourceUnavailableError
from geomap.sources import network
from geomap.types import Composite, Period
from tests.support.archive import served
from tests.support.runner import refused, typed
from tests.support.server import Server
from tests.support.stac_api import COLLECTION, StacApi, page

AREA = aoi.parse_area("4.0588,50.7434,4.0664,50.7480")
PERIOD = Period(2018, 8, 1)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")


@dataclass(frozen=True)
class Authority:
    """Certificates of the test's own making, PEM."""

    ca: Path
    good: ssl.SSLContext  # for 127.0.0.1
    elsewhere: ssl.SSLContext  # for another name
    expired: ssl.SSLContext


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Our own network", "-days", "9")

    def context(name: str, subject: str, days: str) -> ssl.SSLContext:
        (folder / "names").write_text(f"subjectAltName={subject}")
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.req", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", days)
        openssl("x509", "-req", "-in", f"{name}.req", "-out", f"{name}.pem", *signed)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        return made

    good = context("good", "IP:127.0.0.1", "9")
    return Authority(
        folder / "ca.pem", good, context("elsewhere", "DNS:example.org", "9"), context("expired", "IP:127.0.0.1", "-1")
    )


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that matter here are set, and nothing is retried for long."""
    for name in (*network.AUTHORITIES, "SSL_CERT_DIR", *PROXIES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("GDAL_CURL_CA_BUNDLE", certifi.where())  # as rasterio sets it once in each process
    monkeypatch.setattr(stac, "PATIENCE", 0.0)


Start = Callable[..., StacApi]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts an API over TLS."""
    with ExitStack() as running:
        item = {"type": "Feature", "id": "a", "collection": COLLECTION}
        yield lambda tls: running.enter_context(StacApi(lambda request: page([item]), tls=tls))


def ask(url: str) -> list[object]:
    area = box(4, 50, 5, 51)
    return [i["id"] for i in stac.search_items(url, area, Period(2018, 8), collections=[COLLECTION], required=True)]


@pytest.fixture
def pixels(authority: Authority, archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An item file whose assets lie on an https server of the authority."""
    folder = archive(dates=2)
    with Server(folder, tls=authority.good) as server:
        yield served(folder, server.base, folder / "secure.json")


def compose(items: Path, deadline: float = 0.0) -> Composite:
    (tile,) = grid.tiles(AREA)
    return pipeline.compose(search(AREA.geometry, PERIOD, str(items)).scenes, tile.grid, PERIOD, deadline=deadline)


# --- certificates


@pytest.mark.parametrize("variable", network.AUTHORITIES)
def test_an_authority_of_ones_own_counts_for_the_catalogue_and_for_pixels(
    authority: Authority, start: Start, pixels: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    url = start(authority.good).url
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1 is not accepted .*set SSL_CERT_FILE to its file"):
        ask(url)
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1 is not accepted .*set SSL_CERT_FILE to its file"):
        compose(pixels)
    monkeypatch.setenv(variable, str(authority.ca))
    assert ask(url) == ["a"]
    assert compose(pixels).clear.any()


def test_a_folder_of_authorities_counts_too(
    authority: Authority, start: Start, pixels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(authority.ca, tmp_path / "ours.pem")
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert ask(start(authority.good).url) == ["a"]
    assert compose(pixels).clear.any()


def test_gdals_own_variable_counts_for_pixels(
    authority: Authority, pixels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GDAL_CURL_CA_BUNDLE", str(authority.ca))
    assert compose(pixels).clear.any()
    monkeypatch.setenv("GDAL_CURL_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(NetworkError, match=r"GDAL_CURL_CA_BUNDLE names .*none\.pem, which cannot be read"):
        compose(pixels)


def test_the_first_variable_counts(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.authorities() is None
    monkeypatch.setenv("SSL_CERT_FILE", "")
    assert network.authorities() is None
    for variable in reversed(network.AUTHORITIES):
        monkeypatch.setenv(variable, str(authority.ca))
        assert network.authorities() == (variable, str(authority.ca))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), (b"", "holds no certificates"), (b"-----BEGIN CERTIFICATE-----\nx", "holds no certif")],
)
def test_a_variable_that_names_no_authorities(
    authority: Authority, start: Start, pixels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    content: bytes | None, says: str,
) -> None:  # fmt: skip
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(path))
    for wrong in (lambda: ask(start(authority.good).url), lambda: compose(pixels)):
        with pytest.raises(NetworkError, match=rf"CURL_CA_BUNDLE names {path}, which {says}") as e:
            wrong()
        assert e.value.exit_code == 1


def test_certificates_that_nobody_should_accept(
    authority: Authority, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stac, "PATIENCE", 15.0)  # and yet nothing is retried
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    for tls, says in (
        (authority.expired, "expired.*check this machine's clock"),
        (authority.elsewhere, "type the name"),
    ):
        api = start(tls)
        with pytest.raises(NetworkError, match=says) as e:
            ask(api.url)
        assert e.value.exit_code == 1
        assert api.asked == []


def test_a_server_that_does_not_speak_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server, pytest.raises(NetworkError, match="does not speak TLS") as e:
        ask(server.base.replace("http:", "https:"))
    assert e.value.exit_code == 1


def test_the_command_says_what_to_set(authority: Authority, start: Start) -> None:
    url = start(authority.good).url
    command = ("plan", "4,50,4.01,50.01", "--start", "2018-08", "--stac", url, "--collection", COLLECTION)
    refused(typed(*command, **dict.fromkeys(network.AUTHORITIES, "")), 1, "is not accepted", "set SSL_CERT_FILE")


# --- proxies


@pytest.fixture
def proxy() -> Iterator[Callable[[bytes], str]]:
    """Starts a proxy that answers every request, CONNECT included, with one line; returns its address."""
    with ExitStack() as running:

        def start(status: bytes) -> str:
            listening = running.enter_context(socket.create_server(("127.0.0.1", 0)))

            def talk() -> None:
                for _ in itertools.count():
                    try:
                        connection, _ = listening.accept()
                    except OSError:
                        return
                    with connection:
                        connection.recv(65536)
                        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

            threading.Thread(target=talk, daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start


SECURE = "https://stac.example.org/v1"
PLAIN = "http://stac.example.org/v1"


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (b"407 Proxy Authentication Required", 1, "wants a user and password: set {name}=http://USER:PASSWORD@HOST"),
        (b"403 Forbidden", 1, "of {name} refuses to connect to stac.example.org (HTTP 403): allow it there"),
        (b"503 Service Unavailable", 75, "try again later"),
        (b"502 Bad Gateway", 75, "try again later"),
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
def test_a_proxy_that_refuses(
    proxy: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch, status: bytes, code: int, says: str, name: str
) -> None:
    address = proxy(status)
    monkeypatch.setenv(name, address)
    with pytest.raises((NetworkError, CatalogUnavailableError)) as e:
        ask(SECURE)
    assert e.value.exit_code == code
    assert says.format(name=name) in str(e.value)
    assert address in str(e.value)


def test_a_proxy_for_http_that_wants_a_password(proxy: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy(b"407 Proxy Authentication Required").replace("//", "//me:secret@"))
    with pytest.raises(NetworkError, match="wants a user and password: set HTTP_PROXY=") as e:
        ask(PLAIN)
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    ("value", "code", "says"),
    [
        ("socks5://127.0.0.1:9", 1, "names the SOCKS proxy socks5://127.0.0.1:9, for which packages are missing"),
        ("socks5h://me:secret@127.0.0.1:9", 1, "names the SOCKS proxy socks5h://127.0.0.1:9, for which"),
        ("http://127.0.0.1:1", 75, "through the proxy http://127.0.0.1:1 of {name} (connection refused); try again"),
        ("127.0.0.1:1", 75, "through the proxy 127.0.0.1:1 of {name} (connection refused); try again"),
        ("http://me:secret@127.0.0.1:1", 75, "through the proxy http://127.0.0.1:1 of {name}"),
        ("ftp://127.0.0.1:1", 1, "{name} is not the address of a proxy (ftp://127.0.0.1:1): set {name}=http://HOST"),
        ("http://127.0.0.1:port", 1, "{name} is not the address of a proxy"),
        ("http://", 1, "{name} is not the address of a proxy"),
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, value: str, code: int, says: str, name: str
) -> None:
    monkeypatch.setenv(name, value)
    if value.startswith("socks"):
        monkeypatch.setitem(__import__("sys").modules, "socks", None)
    with pytest.raises((NetworkError, CatalogUnavailableError)) as e:
        ask(SECURE)
    assert e.value.exit_code == code
    assert says.format(name=name) in str(e.value)
    assert "secret" not in str(e.value)


def test_a_proxy_whose_name_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the resolver itself is out of reach, the name may be there: that is temporary."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")  # RFC 2606: never there
    with pytest.raises((NetworkError, CatalogUnavailableError), match=r"the|no proxy http://proxy\.invalid:3128") as e:
        ask(SECURE)
    assert "proxy.invalid" in str(e.value)
    with pytest.raises(socket.gaierror) as told:
        socket.getaddrinfo("proxy.invalid", 3128)
    assert e.value.exit_code == (75 if told.value.errno == socket.EAI_AGAIN else 1)


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (b"407 Proxy Authentication Required", NetworkError, "wants a user and password: set HTTPS_PROXY="),
        (b"403 Forbidden", NetworkError, r"refuses to connect to 127\.0\.0\.1 \(HTTP 403\): allow it there"),
        (b"503 Service Unavailable", SourceUnavailableError, "cannot be read now"),
        (None, SourceUnavailableError, r"cannot be read now, through the proxy http://127\.0\.0\.1:1 of HTTPS_PROXY"),
    ],
)
def test_a_proxy_that_refuses_pixels(
    proxy: Callable[[bytes], str], pixels: Path, monkeypatch: pytest.MonkeyPatch, status: bytes | None,
    error: type[Exception], says: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("HTTPS_PROXY", proxy(status) if status else "http://127.0.0.1:1")
    with pytest.raises(error, match=says):
        compose(pixels)
