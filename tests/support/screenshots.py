"""The pictures of the report page in docs/, by `make pictures`: the demonstration's page at three widths."""

import sys
from pathlib import Path
from typing import Final

from PIL import Image

from tests.support.browser import shown, started

SIZES: Final = {1440: 940, 800: 1200, 390: 844}
"""Width -> height of the window, in CSS pixels."""
PLACE: Final = (0.27, 0.44)
"""A field of the demonstration, as shares of the map's width and height."""


def photograph(page: Path, folder: Path) -> None:
    """Write report_<width>.png: land cover beside true colour, with one pixel kept."""
    with started() as browser:
        for width, height in SIZES.items():
            path = folder / f"report_{width}.png"
            with shown(browser, page, width, height) as seen:
                other = seen.page.locator("#other")
                months = other.locator("option", has_text="True colour").all_inner_texts()
                other.select_option(label=months[-1])
                box = seen.page.locator("#map").bounding_box()
                side = min(box["width"], box["height"])
                west, north = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
                seen.page.mouse.click(west + PLACE[0] * side, north + PLACE[1] * side)
                seen.page.evaluate("window.scrollTo(0, 0)")
                seen.page.screenshot(path=path)
            with Image.open(path) as picture:
                picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
            sys.stderr.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    photograph(Path(sys.argv[1]), Path(sys.argv[2]))
