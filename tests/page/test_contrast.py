"""Contrast as the browser paints it: text of 4.5, marks of 3 (WCAG 2.2), on light and on dark paper."""

from __future__ import annotations

from typing import Any

import pytest

# The colours of an element are laid over those of what is under it, with every opacity on the way.
CONTRAST = """
() => {
  const read = (text) => {
    const n = (text.match(/[\\d.]+/g) || []).map(Number);
    return text.startsWith("rgb") ? [n[0], n[1], n[2], n.length > 3 ? n[3] : 1] : null;
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3])).concat(1);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * linear(c[0] / 255) + 0.7152 * linear(c[1] / 255) + 0.0722 * linear(c[2] / 255);
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const path = (e) => { const all = []; for (; e; e = e.parentElement) { all.unshift(e); } return all; };
  const paper = (e) => path(e).reduce((below, one) => {
    const own = read(getComputedStyle(one).backgroundColor);
    return own ? over(own, below) : below;
  }, [255, 255, 255, 1]);
  const opacity = (e) => path(e).reduce((all, one) => all * Number(getComputedStyle(one).opacity), 1);
  const painted = (colour, more, e) => {  // null: it is not painted
    const own = read(colour), below = paper(e);
    return own && ratio(over([own[0], own[1], own[2], own[3] * opacity(e) * more], below), below);
  };
  const shown = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true })
    && e.getBoundingClientRect().width > 0;
  const chart = (e) => e.closest("[data-chart]") ? `${e.closest("[data-chart]").dataset.chart}: ` : "";
  const name = (e) => `${chart(e)}${e.tagName}.${e.getAttribute("class") || ""} ` +
    (e.textContent || "").trim().slice(0, 30);
  const written = (e) => {  // its number is written in it, so that its colour is not what tells
    const box = e.getBoundingClientRect();
    return Array.from(e.closest("svg").querySelectorAll(".mark-text text")).some((text) => {
      const own = text.getBoundingClientRect(), x = (own.left + own.right) / 2, y = (own.top + own.bottom) / 2;
      return box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
    });
  };
  const texts = [], marks = [];
  for (const e of document.querySelectorAll("body *")) {
    if (["SCRIPT", "STYLE", "OPTION"].includes(e.tagName) || !shown(e)) { continue; }
    const style = getComputedStyle(e), svg = e.closest("svg");
    if (Array.from(e.childNodes).some((node) => node.nodeType === 3 && node.textContent.trim())) {
      const own = svg ? painted(style.fill, Number(style.fillOpacity), e) : painted(style.color, 1, e);
      const halo = svg && style.stroke === style.fill && parseFloat(style.strokeWidth) > 2;  // paper behind a text
      if (!halo) { texts.push([own, name(e)]); }
    }
    if (e.matches("input[placeholder]")) {
      texts.push([painted(getComputedStyle(e, "::placeholder").color, 1, e), "the filter's placeholder"]);
    }
    if (e.matches(".track i")) {
      marks.push([painted(style.backgroundColor, Number(style.opacity), e.parentElement), name(e)]);
    }
    if (e.matches("input[type=search], select, button.more, button.way, button.copy")) {
      marks.push([painted(style.borderTopColor, 1, e.parentElement), name(e)]);
    }
    const group = e.matches("svg.marks :is(path, line, rect)") && e.closest("g[class*=mark-]");
    if (group && group.matches(":is(.mark-symbol, .mark-line, .mark-rule, .mark-rect):not(.role-axis-grid)")) {
      const fill = painted(style.fill, Number(style.fillOpacity), e);
      const stroke = painted(style.stroke, Number(style.strokeOpacity), e);
      const most = Math.max(fill || 0, stroke || 0), scale = group.matches(".role-legend-gradient");
      if ((fill || stroke) && !(most < 3 && (scale || written(e)))) { marks.push([most, name(group)]); }
    }
  }
  return { texts, marks };
}
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_marks_stand_out(dark: bool, opened: Any) -> None:
    page = opened(dark=dark)
    page.page.locator(".heat td[data-prompt]").first.click()
    page.run("document.querySelectorAll('section > details').forEach((one) => { one.open = true; })")
    found = page.run(CONTRAST)
    assert len(found["texts"]) > 1000
    assert len(found["marks"]) > 500
    faint = {f"{what}: {ratio:.2f}" for ratio, what in found["texts"] if ratio < 4.5}
    faint |= {f"{what}: {ratio:.2f}" for ratio, what in found["marks"] if ratio < 3.0}
    assert not faint
