"""The contrast of the reports' colours, as WCAG 2.2 defines it."""

from __future__ import annotations

import pytest

from sweeps.display.colours import DARK, LIGHT, SERIES


def luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(over: str, under: str, opacity: float) -> str:
    parts = [(int(over[i : i + 2], 16), int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in parts)


def test_black_on_white_has_a_contrast_of_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half_and_marks_of_three(colours: dict[str, str]) -> None:
    for name in ("ink", "soft", "win", "bad"):
        for paper in ("paper", "tint"):
            assert contrast(colours[name], colours[paper]) >= 4.5, (name, paper)
    for name in SERIES:
        assert contrast(colours[name], colours["paper"]) >= 3, name
    assert contrast(mixed(colours["soft"], colours["paper"], 0.8), colours["paper"]) >= 3  # grey lines and ticks


@pytest.mark.parametrize(("colours", "most"), [(LIGHT, 0.55), (DARK, 0.4)], ids=["light", "dark"])
def test_numbers_in_the_map_can_be_read_on_its_strongest_colour(colours: dict[str, str], most: float) -> None:
    assert contrast(colours["ink"], mixed(colours["win"], colours["paper"], most)) >= 4.5


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_can_be_read_on_every_shade_of_a_matrix(colours: dict[str, str]) -> None:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert contrast(colours["ink"], mixed(colours["shade"], colours["tint"], share)) >= 4.5, share
