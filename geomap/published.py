"""Published checkpoints that can be downloaded; `geomap.convert` makes weights of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from geomap.errors import TemporaryError, WeightsError

CHECKPOINTS: Final = {"timesenclip": ("pallavijainpj/TimeSenCLIP", "TimeSenCLIP_1x1.ckpt")}
"""Name -> repository and file on huggingface.co (paper.md section 7); whether they exist has not been verified."""


def model_page(name: str) -> str:
    """Where a checkpoint and its licence are described."""
    return f"huggingface.co/{CHECKPOINTS[name][0]}"


def fetch(name: str) -> Path:
    """Download a checkpoint into huggingface_hub's cache, or find it there.

    Raises:
        WeightsError: a name that is not in CHECKPOINTS, or the hub does not give the file.
        TemporaryError: the hub does not answer, or the download breaks off.
    """
    if name not in CHECKPOINTS:
        raise WeightsError(f"no published weights {name!r}; known are {', '.join(CHECKPOINTS)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, file = CHECKPOINTS[name]
    by_hand = f"get {file} of {model_page(name)} by hand, then: geomap weights convert {file} --out DIR"
    try:
        with _quiet():
            return Path(hf_hub_download(repository, file))
    except Exception as e:  # of the hub, of its HTTP client, of the disk
        refusals = [x for x in (e, e.__cause__) if isinstance(x, HfHubHTTPError)]  # the hub wraps some of its own
        status = refusals[0].response.status_code if refusals else 0
        if 400 <= status < 500 and status not in (408, 429):  # gone, closed or renamed: waiting does not help
            raise WeightsError(f"the hub does not give {file} (HTTP {status}); {by_hand}") from e
        raise TemporaryError(f"{file} cannot be fetched ({type(e).__name__}); try again later, or {by_hand}") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the hub's notices of its own retries off the terminal; progress bars stay."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        hub.setLevel(level)
