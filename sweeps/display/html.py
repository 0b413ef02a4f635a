"""Fills the templates of the reports with Jinja. Every text is escaped, unless it is ``Markup`` that our code made."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sweeps.display.colours import DARK, LIGHT

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGES = ("display", "report", "plw")  # those of ``sweeps`` with templates


def render(template: str, **values: Any) -> Markup:
    """The template at ``template``, such as ``plw/plw.html.j2``, filled with ``values``; a name that it lacks is an
    error."""
    return Markup(_environment().get_template(template).render(values))


def json_data(name: str, value: Any) -> Markup:
    """``value`` as JSON that the page's script reads from the element ``name``. Nothing in it can end the element:
    ``<`` and ``>`` are written as numbers."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup('<script type="application/json" id="{}">').format(name) + Markup(text + "</script>")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

    templates = {name: PackageLoader("sweeps", name) for name in PACKAGES}
    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=PrefixLoader(templates))
    environment.globals["colours"] = {"light": LIGHT, "dark": DARK}
    return environment
