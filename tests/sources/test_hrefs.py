import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomap.errors import HrefError, InputError
from geomap.sources.hrefs import HrefPolicy, check_href, check_url, named, public_link, redacted

PRESET = HrefPolicy(hosts=frozenset({"cogs.example.org"}), buckets=frozenset({"eodata"}))
ANYWHERE = HrefPolicy(buckets=frozenset({"eodata"}))
TYPED_HTTP = HrefPolicy(named=named(["http://127.0.0.1:7822/stac"], ("https", "http")))
FILE = HrefPolicy(named=named(["localhost"]), folder=Path("/data/archive"))
POLICIES = {"preset": PRESET, "anywhere": ANYWHERE, "typed http": TYPED_HTTP, "file": FILE}

HOSTILE = [
    '<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>',
    "%3CVRTDataset%3E.tif",
    "vrt:///etc/passwd",
    "vrt://https://cogs.example.org/a.tif",
    "/vsicurl/https://cogs.example.org/a.tif",
    "/VSIMEM/a.tif",
    "/vsisubfile/0_100,/etc/shadow.tif",
    "%2Fvsizip%2Fa.zip/a.tif",
    "GTIFF_DIR:1:/data/archive/a.tif",
    "MEM:::DATAPOINTER=1,PIXELS=1.tif",
    "NETCDF:/data/a.nc:band.tif",
    "file://host/data/archive/a.tif",
    "file:a.tif",
    "file:///data/archive/a.vrt",
    "file:///data/archive/../../etc/a.tif",
    "file:///data/%2e%2e/a.tif",
    "file:///data/%252e%252e/a.tif",
    "file:///vsimem/a.tif",
    "file:////vsimem/a.tif",
    "file:///%76sizip/a.zip/b.tif",
    "file:///vsi%2563url/b.tif",
    "file:///data/a%253Cb.tif",
    "file:///data/a.zip%21b.tif",
    "file:///data/GTIFF_DIR%3A1%3Aa.tif",
    "file:///data/a.tif?x",
    "ftp://cogs.example.org/a.tif",
    "gs://eodata/a.tif",
    "zip+https://cogs.example.org/a.zip!b.tif",
    "https://cogs.example.org/a.zip!b.tif",
    "https://cogs.example.org/../../etc/a.tif",
    "https://cogs.example.org/a/%2e%2e/%2E%2e/b.tif",
    "s3://eodata/../other/a.tif",
    "../outside.tif",
    "cogs/../../outside.tif",
    "/data/archive/../../etc/a.tif",
    "https://cogs.example.org/a.tif\x00.png",
    "https://cogs.example.org/a%00.tif",
    "https://cogs.example.org/a.tif\r\nHost: evil.example",
    "https://cogs.example.org/a%0d%0a.tif",
    "https://cogs.example.org\\@evil.example/a.tif",
    "https://user:secret@cogs.example.org/a.tif",
    "https://cogs.example.org@evil.example/a.tif",
    "https://cogs.example.org/a.vrt",
    "https://cogs.example.org/a.vrt?x=.tif",
    "https://cogs.example.org/a.vrt#.tif",
    "https://cogs.example.org/a.tif#fragment",
    "https://cogs.example.org/a",
    "https://cogs.example.org:port/a.tif",
    "https://[::1/a.tif",
    "https:///a.tif",
    "https://éxample.org/a.tif",
    "https://169.254.169.254/latest/meta-data/a.tif",
    "https://10.0.0.5/a.tif",
    "https://192.168.1.1/a.tif",
    "https://[fe80::1]/a.tif",
    "https://[fd00::1]/a.tif",
    "https://[::ffff:10.0.0.5]/a.tif",
    "https://0x0a000005/a.tif",
    "https://167772165/a.tif",
    "https://10.5/a.tif",
    "https://metadata.google.internal/a.tif",
    "https://intranet/a.tif",
    "http://cogs.example.org/a.tif",
    "http://169.254.169.254/a.tif",
    "s3://somebody-elses-bucket/a.tif",
    "",
    "https://cogs.example.org/" + "a" * 3000 + ".tif",
    None,
    7,
    ["https://cogs.example.org/a.tif"],
]


@pytest.mark.parametrize("href", HOSTILE)
@pytest.mark.parametrize("policy", POLICIES)
def test_hostile_hrefs_are_refused_whatever_the_catalogue(href: object, policy: str) -> None:
    with pytest.raises(HrefError) as refused:
        check_href(href, POLICIES[policy], base="https://cogs.example.org/items/a.json")
    message = str(refused.value)
    assert message.isprintable()  # one line, nothing of the href's control characters
    assert "secret" not in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1", "2130706433", "0x7f.1", "localhost."])
def test_loopback_must_be_named(host: str) -> None:
    for policy in (PRESET, ANYWHERE):
        for scheme in ("http", "https"):
            with pytest.raises(HrefError):
                check_href(f"{scheme}://{host}/a.tif", policy)


@pytest.mark.parametrize(
    ("href", "policy"),
    [
        ("https://cogs.example.org/a/B02.tif", PRESET),
        ("https://cogs.example.org/a/B02.TIFF", PRESET),
        ("s3://eodata/Sentinel-2/x.SAFE/B02_10m.jp2", PRESET),
        ("https://elsewhere.example.net/B02.tif?sig=abc&se=2026", ANYWHERE),
        ("https://93.184.216.34/B02.tif", ANYWHERE),
        ("http://127.0.0.1:8098/cogs/B02.tif", TYPED_HTTP),
        ("http://localhost:8098/cogs/B02.tif", TYPED_HTTP),
        ("http://[::1]:8098/cogs/B02.tif", FILE),
        ("/mnt/other disk/B02.tif", FILE),
    ],
)
def test_plain_rasters_pass_unchanged(href: str, policy: HrefPolicy) -> None:
    assert check_href(href, policy) == href


def test_a_preset_opens_its_own_hosts_only() -> None:
    with pytest.raises(HrefError, match=r"--allow-host elsewhere\.example\.net"):
        check_href("https://elsewhere.example.net/B02.tif", PRESET)


def test_local_paths_only_from_an_item_file() -> None:
    for policy in (PRESET, ANYWHERE, TYPED_HTTP):
        with pytest.raises(HrefError, match="local path"):
            check_href("/etc/a.tif", policy)


def test_file_urls_are_local_paths() -> None:
    for href in ("file:///mnt/other%20disk/B02.tif", "FILE:///mnt/other disk/B02.tif"):
        assert check_href(href, FILE) == "/mnt/other disk/B02.tif"
    assert check_href("./B02.tif", FILE, base="file:///mnt/disk/items/a.json") == "/mnt/disk/items/B02.tif"
    for policy in (PRESET, ANYWHERE, TYPED_HTTP):
        for href, base in (("file:///etc/a.tif", None), ("a.tif", "file:///etc/a.json")):
            with pytest.raises(HrefError, match="only https, s3 and http"):
                check_href(href, policy, base=base)


def test_relative_hrefs_are_resolved_and_checked_again() -> None:
    link = "https://cogs.example.org/items/a.json"
    assert check_href("./B02.tif", PRESET, base=link) == "https://cogs.example.org/items/B02.tif"
    assert check_href("/cogs/B02.tif", PRESET, base=link) == "https://cogs.example.org/cogs/B02.tif"
    assert check_href("cogs/B02.tif", FILE) == "/data/archive/cogs/B02.tif"
    assert check_href("/cogs/B02.tif", FILE, base=link) == "/cogs/B02.tif"  # an absolute path of a file stays one
    with pytest.raises(HrefError, match="not a public host"):
        check_href("B02.tif", ANYWHERE, base="https://169.254.169.254/items/a.json")
    with pytest.raises(HrefError, match="not one of the catalogue's"):
        check_href("//evil.example/B02.tif", PRESET, base=link)
    with pytest.raises(HrefError, match="local path"):
        check_href("B02.tif", ANYWHERE)
    with pytest.raises(HrefError, match="not a valid URL"):
        check_href("B02.tif", ANYWHERE, base="https://[::1/items/a.json")


def test_naming_a_host_opens_it_by_http_and_as_a_bucket() -> None:
    policy = HrefPolicy(named=named(["Minio.local:9000", "my-bucket"]), hosts=frozenset())
    for href in ("http://minio.local:9000/a.tif", "https://minio.local/a.tif", "s3://my-bucket/a.tif"):
        assert check_href(href, policy) == href


def test_naming_an_https_catalogue_does_not_open_http() -> None:
    policy = HrefPolicy(named=named(["https://10.0.0.5/stac"], ("https",)))
    assert check_href("https://10.0.0.5/a.tif", policy)
    with pytest.raises(HrefError, match="without TLS"):
        check_href("http://10.0.0.5/a.tif", policy)


@pytest.mark.parametrize("text", ["", "http://", "a b", "//[", "ex<ample.org", "https://a_b!/v1?token=secret"])
def test_a_named_host_must_be_a_host(text: str) -> None:
    with pytest.raises(InputError, match="host name") as refused:
        named([text])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.example/b/c.tif?sig=SECRET&se=2", "https://a.example/b/c.tif"),
        ("https://a.example/c.tif#SECRET", "https://a.example/c.tif"),
        ("https://user:SECRET@a.example/c.tif?x=SECRET", "https://a.example/c.tif"),
        ("https://SECRET@a.example:8443", "https://a.example:8443"),
        ("https://user:SEC@RET@a.example/c.tif", "https://a.example/c.tif"),  # the last @ ends the user
        ("https://user:SEC?RET@a.example/c.tif", "https://..."),  # nothing tells the host
        ("https://user:SEC#RET@a.example/c.tif?SECRET", "https://..."),
        ("https://a.example?mail=SECRET@b.example", "https://..."),
        ("https://a.example/c@d.tif", "https://a.example/c@d.tif"),
        ("s3://bucket/c.tif?versionId=SECRET", "s3://bucket/c.tif"),
        ("HTTPS://A.example/c.tif?SECRET", "HTTPS://A.example/c.tif"),
        ("HTTP error code: 503 - https://a.example/b.tif?sig=SECRET&x=1. Retrying", None),
        ("'/vsicurl/https://a.example/b.tif?sig=SECRET' not a file", "'/vsicurl/https://a.example/b.tif' not a file"),
        ("/vsicurl?pc_url_signing=yes&url=https%3A%2F%2Fa.example%2Fb.tif%3Fsig%3DSECRET", "/vsicurl"),
        ("/vsicurl?url=https://a.example/b.tif?sig=SECRET: HTTP 403", "/vsicurl: HTTP 403"),
        ("Max retries exceeded with url: /v1/search?token=SECRET (Caused by X)", None),
        ("GET https://a.example/v1?token=SECRET is no good", "GET https://a.example/v1 is no good"),
        ('{"self":"https://a.example/v1?token=SECRET","next":"https://a.example/v1?token=SECRET"}', None),
        ("<https://a.example/v1?a=it's(SECRET)'SECRET>; rel=next", "<https://a.example/v1>; rel=next"),
        ("one https://a.example/1?SECRET and\nhttps://u:SECRET@b.example/2?SECRET two", None),
        ("https://a.example/1,https://u:SECRET@b.example/2", "https://a.example/1,https://b.example/2"),
        ("https://a.example/1,https://u:SEC?RET@b.example/2", "https://a.example/1,https://..."),
        ("b.tif?sig=SECRET cannot be read", "b.tif cannot be read"),
        ("/v1?token%3DSECRET is no good", "/v1 is no good"),
        ("/vsicurl?SEC/https://u:SECRET@a.example/b.tif", "/vsicurl"),
        ("/a/q?x/100%?c#1/landcover.gpkg: changed", "/a/q?x/100%?c#1/landcover.gpkg: changed"),
        ("geomap run '/a/My Maps?/j.yaml' --refresh.", "geomap run '/a/My Maps?/j.yaml' --refresh."),
        ("is it there? yes: 3 of 4, a@b.example #7", "is it there? yes: 3 of 4, a@b.example #7"),
        ("", ""),
    ],
)  # fmt: skip
def test_no_secret_of_an_address_is_left_in_a_text(text: str, shown: str | None) -> None:
    found = redacted(text)
    assert not re.search("SEC|RET", found)
    if shown is not None:
        assert found == shown
    assert redacted(found) == found


PIECES = st.lists(st.sampled_from([*"?#@:=&'),.;", "x", "SECRET", "%2F"]), max_size=6).map("".join)


@given(
    st.sampled_from(["", "'", "url=", "(/vsicurl/", "https://b.example/1,"]),
    PIECES,
    st.sampled_from(["?", "#", "?a=", "/c.tif?", "/d/c.tif?x=1#"]),
    st.lists(st.sampled_from([*"?#@:=&'),.;/", "//", "://", "x", "SECRET"]), max_size=6).map("".join),
    st.sampled_from(["", "'", "').", ": HTTP 403", "\n"]),
)
def test_neither_user_nor_query_is_shown_whatever_is_in_them(
    before: str, user: str, start: str, query: str, after: str
) -> None:
    text = f"{before}https://{user}@a.example{start}{query}{after}"
    assert "SECRET" not in redacted(text)
    assert text.split()[1:] == redacted(text).split()[1:]  # the other words stay


@pytest.mark.parametrize("part", ["?", "/", "//", "//?", "://", "@", "#", "a", "//a?@", ")", "?)"])
def test_long_answers_of_servers_are_cut_too(part: str) -> None:
    """In time that grows as their length: a regular expression that looks back would take hours."""
    assert "SECRET" not in redacted(part * 400_000 + "https://u:SECRET@a?SECRET")


def test_links_of_a_catalogue_need_no_raster_extension() -> None:
    assert check_url("https://stac.example.org/search?page=2", ANYWHERE).hostname == "stac.example.org"
    with pytest.raises(HrefError):
        check_url("http://169.254.169.254/latest", ANYWHERE)


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("https://example.org/items/S2B_31UFS", "https://example.org/items/S2B_31UFS"),
        ("https://example.org/items/a?sig=SECRET&b=1#c", "https://example.org/items/a"),
        ("https://me:SECRET@example.org/items/a", "https://example.org/items/a"),
        ("http://example.org/items/a", None),
        ("s3://eodata/items/a", None),
        ("javascript:alert(1)", None),
        ("https://127.0.0.1/items/a", None),
        ("https://catalog.internal/items/a", None),
        ('https://example.org/"><script>', None),
        ("https://example.org/a\nb", None),
        ("https://[1/a", None),
        ("./S2B_31UFS.json", None),
        ("", None),
        (None, None),
    ],
)
def test_an_items_own_address_is_public_or_not_shown(link: str | None, shown: str | None) -> None:
    assert public_link(link) == shown
