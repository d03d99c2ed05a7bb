"""Certificates and proxies: which authorities are trusted, and what the libraries' errors about them mean."""

from __future__ import annotations

import functools
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import certifi

from geomap import process
from geomap.errors import NetworkError, install_hint
from geomap.sources.hrefs import without_secrets

AUTHORITIES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name certificate authorities. The first that is set holds for the catalogue and for pixels."""

_GDAL: Final = "GDAL_CURL_CA_BUNDLE"
"""GDAL's own variable, for pixels alone. rasterio sets it to certifi's list, so GDAL never looks at the others."""

_CERTIFICATE: Final = re.compile(
    r"certificate verify failed: (?P<python>[^(\n]*)|SSL certificate problem: (?P<curl>[^\n]*)"
    r"|error setting certificate[^\n:]*: (?P<file>[^\n]*)"
    r"|(?P<name>no alternative certificate subject name|certificate subject name [^\n]* does not match)",
    re.IGNORECASE,
)
_NO_TLS: Final = re.compile(
    r"wrong[ _]version[ _]number|\bhttp[ _]request\b|unsupported[ _]protocol|alert[ _]protocol[ _]version"
    r"|alert[ _]handshake[ _]failure|record layer failure|packet length too long",
    re.IGNORECASE,
)
_TUNNEL: Final = re.compile(
    r"(?:Tunnel connection failed: |CONNECT tunnel failed, response |Received HTTP code )(\d{3})", re.IGNORECASE
)
_NO_SOCKS: Final = re.compile(r"Missing dependencies for SOCKS|'socksio' package", re.IGNORECASE)
_BAD_PROXY: Final = re.compile(
    r"Unsupported proxy|Not supported proxy scheme|Proxy URL had|check proxy URL|Unable to determine SOCKS version"
    r"|Failed to parse: |port number was not a decimal|Proxy.* unsupported scheme|Port could not be cast",
    re.IGNORECASE,
)
_UNKNOWN_PROXY: Final = re.compile(
    r"Unable to connect to proxy.*(?:No address associated|Name or service not known|nodename nor servname)",
    re.IGNORECASE | re.DOTALL,
)
_PROXY: Final = re.compile(r"Unable to connect to proxy|resolve proxy|Failed to connect to \S+ port \d+ via ", re.I)


def authorities() -> tuple[str, str] | None:
    """The variable that names the authorities to trust, and its value; None if none is set.

    Raises:
        NetworkError: it names no file or folder of certificates.
    """
    for name in AUTHORITIES:
        if path := os.environ.get(name):
            _require(name, path)
            return name, path
    return None


def gdal_authorities() -> dict[str, str]:
    """GDAL's options for the same authorities, or for those of GDAL's own variable. Raises NetworkError."""
    own = os.environ.get(_GDAL)
    if own and own != certifi.where():
        _require(_GDAL, own)
        return {"GDAL_HTTP_CAPATH" if Path(own).is_dir() else _GDAL: own}
    found = authorities()
    if found is None:
        return {}
    return {"GDAL_HTTP_CAPATH" if Path(found[1]).is_dir() else _GDAL: found[1]}


@contextmanager
def shared_authorities() -> Iterator[None]:
    """Let libraries that know only OpenSSL's own variables trust the same authorities inside. Raises NetworkError."""
    found = authorities()
    if found is None:
        yield
        return
    with process.variable("SSL_CERT_DIR" if Path(found[1]).is_dir() else "SSL_CERT_FILE", found[1]):
        yield


def lasting(error: str, url: str) -> NetworkError | None:
    """The error for a fault of certificates or proxies that stays until somebody changes a setting; None for others.

    Args:
        error: what requests or GDAL said, with its causes.
        url: what was asked for.
    """
    host, scheme = urlsplit(url).hostname or url, urlsplit(url).scheme or "https"
    proxy = proxy_of(scheme)
    if match := _CERTIFICATE.search(error):
        if match["file"]:
            return NetworkError(f"no certificates in {match['file']}: set SSL_CERT_FILE to a file of authorities (PEM)")
        why = (match["python"] or match["curl"] or "it is for another name").strip(" .")
        return NetworkError(f"the certificate of {host} is not accepted ({why}); {_advice(why)}")
    if proxy is not None and (says := _of_proxy(error, host, *proxy)):
        return NetworkError(says)
    if _NO_TLS.search(error):
        return NetworkError(f"{host} does not speak TLS as https needs it; check the address and its port")
    return None


def proxy_of(scheme: str) -> tuple[str, str] | None:
    """The variable that sets the proxy for addresses of a scheme, and its value without user and password."""
    proxies = getproxies_environment()
    for kind in (scheme, "all"):
        if value := proxies.get(kind):
            name = next((k for k, v in os.environ.items() if k.lower() == f"{kind}_proxy" and v == value), kind)
            return name, without_secrets(value if "://" in value else f"//{value}").removeprefix("//")
    return None


def of_proxy(error: str, url: str) -> str:
    """Words that name the proxy, for an error of a connection to it; empty for other errors."""
    proxy = proxy_of(urlsplit(url).scheme or "https")
    return f", through the proxy {proxy[1]} of {proxy[0]}" if proxy and _PROXY.search(error) else ""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those beneath it, however the libraries wrap them."""
    todo, seen = [error], set[int]()
    while todo:
        found = todo.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            todo += [found.__cause__, found.__context__, getattr(found, "reason", None)]


def texts(error: BaseException) -> str:
    """The messages of an error and of those beneath it, one a line."""
    return "\n".join(map(str, chain(error)))


def _of_proxy(error: str, host: str, name: str, proxy: str) -> str:
    """What is wrong with a proxy for good; empty if nothing is."""
    correct = f"correct {name}, or unset it"
    if _NO_SOCKS.search(error):
        hint = install_hint("pysocks", "socksio")
        return f"{name} names the SOCKS proxy {proxy}, for which packages are missing: {hint}; or name an HTTP proxy"
    if told := _TUNNEL.search(error):
        if told[1] == "407":
            return f"the proxy {proxy} wants a user and password: set {name}=http://USER:PASSWORD@HOST:PORT"
        if told[1].startswith("4"):
            return f"the proxy {proxy} of {name} refuses to connect to {host} (HTTP {told[1]}): allow it there"
    if _BAD_PROXY.search(error):
        return f"{name} is not the address of a proxy ({proxy}): set {name}=http://HOST:PORT, or unset it"
    if _UNKNOWN_PROXY.search(error):
        return f"there is no proxy {proxy}, its name cannot be resolved: {correct}"
    if proxy.startswith("https://") and _NO_TLS.search(error):
        return f"the proxy {proxy} does not speak TLS: set {name}=http://HOST:PORT"
    return ""


def _advice(why: str) -> str:
    if "expired" in why or "not yet valid" in why:
        return "check this machine's clock; if it is right, the server's owner has to renew the certificate"
    if "name" in why or "mismatch" in why:
        return "type the name for which the certificate was made"
    name, path = authorities() or ("SSL_CERT_FILE", "")
    known = f"those of {name}={path}" if path else "the usual ones"
    return f"its authority is none of {known}: if your network has an authority of its own, set {name} to its file"


def _require(name: str, path: str) -> None:
    """Raise NetworkError unless the path in a variable is a folder or a file of certificates."""
    try:
        changed = os.stat(path).st_mtime_ns
        why = "" if Path(path).is_dir() else _no_certificates(path, changed)
    except (OSError, ValueError) as error:
        why = f"which cannot be read ({getattr(error, 'strerror', None) or error})"
    if why:
        raise NetworkError(f"{name} names {path}, {why}: set {name} to a file of certificates (PEM), or unset it")


@functools.lru_cache(maxsize=8)
def _no_certificates(path: str, _changed: int) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return "which cannot be read" if isinstance(error, PermissionError) else "which holds no certificates"
    return ""
