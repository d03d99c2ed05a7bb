"""Decides which asset addresses geomap opens: catalogues are not trusted.

GDAL opens far more than rasters. It and rasterio treat an href as a small language: inline VRT XML, `vrt://`,
`/vsi...` chains, driver prefixes such as `GTIFF_DIR:` and local paths. Only plain rasters pass here, at a place that
the provider or the user named:

    https   a host of the provider (presets); any public host (a catalogue or item file that the user typed)
    s3      a bucket of the provider: GDAL signs with the user's own keys
    http    only hosts that the user named
    local   only for an item file that the user named

A host that is a private, link-local or loopback address, or not a public name, must be named by the user.

Not covered: redirects of the servers that hold pixels. GDAL follows them to any host, and GDAL 3.10 has no option
against it (requests to a catalogue are geomap's own: every hop of those is checked). Nor does geomap notice a public
name that resolves to a private address. If you do not trust a catalogue, and the machine can reach private hosts, run
geomap behind a firewall or a proxy that refuses such hosts (GDAL_HTTP_PROXY, HTTPS_PROXY).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from geomap.errors import HrefError, InputError
from geomap.paths import own, there

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
EXTENSIONS: Final = frozenset({".tif", ".tiff", ".jp2"})

_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f<>\\!]")  # `!` opens archives in rasterio
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_USERINFO: Final = re.compile(r"//[^/]*@")
_UNCLEAR_USER: Final = re.compile(r"//[^/?#]*[?#][^/]*@")
_WORD: Final = re.compile(r"\S+")
_ASSIGNS: Final = re.compile("=|%3d|://", re.IGNORECASE)  # in a query, but hardly in a path
_CLOSING: Final = "'\")]}>.,;:?"
_HOST: Final = re.compile(r"[a-z0-9][a-z0-9._-]*|[0-9a-f:.]+")
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal", ".home.arpa")
_MAX_LENGTH: Final = 2048


@dataclass(frozen=True, slots=True)
class HrefPolicy:
    """What one catalogue may point to."""

    named: frozenset[tuple[str, str]] = frozenset()  # (scheme, host or bucket) that the user named
    hosts: frozenset[str] | None = None  # https hosts; None: every public host
    buckets: frozenset[str] = frozenset()  # s3 buckets
    folder: Path | None = None  # folder of the user's item file: local paths are allowed


def named(hosts: Iterable[str], schemes: tuple[str, ...] = ("https", "http", "s3")) -> frozenset[tuple[str, str]]:
    """(scheme, host) pairs of hosts, `host:port` pairs or URLs that the user typed; loopback names count as one.

    Raises:
        InputError: not a host.
    """
    names: set[str] = set()
    for text in hosts:
        try:
            host = urlsplit(text if "//" in text else f"//{text}").hostname or ""
        except ValueError:
            host = ""
        if not _HOST.fullmatch(host):
            raise InputError(f"{without_secrets(text)!r} is not a host name; type it as in example.org")
        names |= LOOPBACK if host in LOOPBACK else {host}
    return frozenset((scheme, name) for scheme in schemes for name in names)


def check_href(href: object, policy: HrefPolicy, *, base: str | None = None) -> str:
    """The absolute URL or path of a raster asset, if geomap may open it; a local `file:///` URL becomes its path.

    Args:
        href: as the item states it.
        policy: what the item's catalogue may point to.
        base: the item's `self` link, against which a relative href is resolved; if it is no URL, `policy.folder` is
            used instead.

    Raises:
        HrefError: the href is refused; the message shows it without its query string.
    """
    try:
        return _checked(href, policy, base)
    except HrefError:
        if (path := _file_of_users(href, policy.folder)) is None:
            raise
        return path


def _file_of_users(href: object, folder: Path | None) -> str | None:
    """The path of a file that lies where an item file of the user says, whatever its name looks like; else None."""
    if folder is None or not isinstance(href, str) or "\0" in href or len(href) > _MAX_LENGTH:
        return None
    path = os.path.normpath(own(href, folder).absolute())
    plain = PurePosixPath(path).suffix.lower() in EXTENSIONS and not path.lower().startswith(("/vsi", "//"))
    return path if plain and there(Path(path)) and os.path.isfile(path) else None


def _checked(href: object, policy: HrefPolicy, base: str | None) -> str:
    text = _plain(href)
    if ":" not in text and base and _SCHEME.match(base) and not (text.startswith("/") and policy.folder):
        try:
            text = urljoin(base, text)
        except ValueError:
            raise _refused(text, "its item's own address is not a valid URL") from None
    if policy.folder is not None and text.lower().startswith("file:///"):
        text = _plain(unquote(text[len("file://") :]))
    if ":" not in text:  # a path
        if policy.folder is None:
            raise _refused(text, "a local path, which only an item file of yours may hold")
        _check_extension(text, text)
        path = str(policy.folder.absolute() / text)
        return path if "%" not in text or there(Path(path)) else unquote(path)  # an href may be percent-encoded
    _check_extension(text, unquote(check_url(text, policy).path))
    return text


def check_url(url: str, policy: HrefPolicy) -> SplitResult:
    """The parts of an https, s3 or http URL whose place `policy` allows.

    Raises:
        HrefError: any other URL.
    """
    text = _plain(url)
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").rstrip(".")
        _ = parts.port
    except ValueError:
        raise _refused(text, "not a valid URL") from None
    if parts.scheme not in ("https", "http", "s3"):
        raise _refused(text, "only https, s3 and http addresses are opened")
    if "@" in parts.netloc or parts.fragment or not text.isascii() or " " in text or not _HOST.fullmatch(host):
        raise _refused(text, "not a plain URL")
    if (parts.scheme, host) in policy.named:
        return parts
    hint = f"type --allow-host {host} if you trust it"
    if parts.scheme == "s3" and host not in policy.buckets:
        raise _refused(text, f"bucket {host} is not one of the catalogue's; {hint}")
    if parts.scheme == "http":
        raise _refused(text, f"http without TLS; {hint}")
    if parts.scheme == "https" and policy.hosts is not None and host not in policy.hosts:
        raise _refused(text, f"host {host} is not one of the catalogue's; {hint}")
    if parts.scheme == "https" and not _is_public(host):
        raise _refused(text, f"{host} is not a public host; {hint}")
    return parts


def public_link(href: str | None) -> str | None:
    """An item's own address for the results, without query and user; None unless it is https, at a public host."""
    if href is None:
        return None
    try:
        parts = check_url(redact(href), HrefPolicy())
    except (HrefError, ValueError):
        return None
    return parts.geturl() if parts.scheme == "https" else None


def _plain(href: object) -> str:
    """`href` as text without control characters, markup, GDAL's virtual paths and steps upward."""
    if not isinstance(href, str) or not 0 < len(href) <= _MAX_LENGTH:
        raise HrefError(f"refuse an asset address of type {type(href).__name__}, or empty, or over {_MAX_LENGTH} long")
    decoded = unquote(href)
    if _FORBIDDEN.search(href) or _FORBIDDEN.search(decoded):
        raise _refused(href, "control characters or markup")
    if decoded.lower().startswith(("/vsi", "//vsi")):
        raise _refused(href, "a virtual path of GDAL")
    if ".." in re.split(r"[/?#]", decoded):
        raise _refused(href, "a step upward (..)")
    return href


def _check_extension(text: str, path: str) -> None:
    if PurePosixPath(path).suffix.lower() not in EXTENSIONS:
        raise _refused(text, "not a plain .tif, .tiff or .jp2 file")


def _is_public(host: str) -> bool:
    """Whether a host may be reached without being named: a public address or a name with a public suffix."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001 and 2130706433, as curl reads
        except OSError:
            return "." in host and not host.endswith(_LOCAL_SUFFIXES)
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_global)


def without_secrets(url: str) -> str:
    """An address as messages show it: without query, fragment and user, which may be secret; 200 characters at most."""
    return _bare(url)[:200]


def redact(href: str) -> str:
    """A whole address, to be opened or kept, without its parts that may be secret; a local path stays as it is."""
    return _bare(href) if urlsplit(href).scheme else href


def redacted(text: str) -> str:
    """Text as messages and logs show it: addresses without query, fragment and user, paths without query."""
    return _WORD.sub(lambda word: _redacted_word(word[0]), text)


def _redacted_word(word: str) -> str:
    """A word without secrets; a quote or full stop at its end stays, and so does a ? in the path of a file."""
    end = len(word.rstrip(_CLOSING))
    before, _, query = word[:end].partition("?")
    if "://" in before:
        return _bare(word[:end]) + word[end:]
    return before + word[end:] if _ASSIGNS.search(query) else word


def _bare(url: str) -> str:
    """An address without query, fragment and user; also without its host if a password seems to hold ? or #."""
    if unclear := _UNCLEAR_USER.search(url):
        url = f"{url[: unclear.start()]}//..."
    return _USERINFO.sub("//", re.split("[?#]", url, maxsplit=1)[0])


def _refused(href: str, why: str) -> HrefError:
    return HrefError(f"refuse to open {without_secrets(href)!a}: {why}")
