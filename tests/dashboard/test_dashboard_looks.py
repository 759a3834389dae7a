"""The colours: every text can be read on what it stands on, in light and in dark (WCAG AA: 4.5 to 1)."""

import re
from pathlib import Path

import pytest

from amqptasks.dashboard.rendering import HERE

CSS = (Path(HERE) / "static" / "dashboard.css").read_text()
PAIRS = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", CSS)
COLOURS = {name: {"light": light, "dark": dark} for name, light, dark in PAIRS}
ON = [(text, ground) for text in ("ink", "soft") for ground in ("paper", "card", "raised")]
ON += [(tone, f"{tone}-back") for tone in ("good", "bad", "warn", "busy", "odd")]
ON += [("ink", f"{tone}-back") for tone in ("good", "bad", "warn", "busy")]
ON += [("bad", "card"), ("bad", "raised"), ("accent-ink", "accent"), ("#ffffff", "bad-solid")]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), ON)
def test_a_text_can_be_read(text: str, ground: str, scheme: str) -> None:
    colour = text if text.startswith("#") else COLOURS[text][scheme]

    assert contrast(colour, COLOURS[ground][scheme]) >= 4.5


def test_every_colour_has_its_name() -> None:
    """What is written out elsewhere would not change with the scheme; white on the solid badge is the same in both."""
    rules = CSS[CSS.index("* {") :]

    assert set(re.findall(r"#[0-9a-f]{3,6}\b", rules)) <= {"#fff"}
    assert set(re.findall(r"var\(--([\w-]+)\)", CSS)) <= {*COLOURS, "shadow", "mono", "sans", "round"}


def test_the_measure_itself() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
