"""``make docs``: the site is built without warnings, has all that it promises, and its pages request no other host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import typer.main
import yaml
from checkout import ROOT

import steadytune
from sweeps.cli.app import app

LOADED = {"script", "img", "iframe", "source", "video", "audio", "embed"}
PICTURES = ("verdict", "what-mattered", "of-a-later-section")  # may exist in docs/images, or not yet
LINKED = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "prefetch", "modulepreload", "manifest"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a copy of the files that it is made of."""
    copy = tmp_path_factory.mktemp("site")
    for name in ("docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "docs" / "images").mkdir(exist_ok=True)
    for name in PICTURES:
        shutil.copy(ROOT / "docs" / "report.png", copy / "docs" / "images" / f"report-{name}.png")
    for file in (*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "mkdocs.yml"):
        shutil.copy(file, copy)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    for command in (["docs/site/pages.py"], ["-m", "zensical", "build", "--strict", "--clean"]):
        done = subprocess.run([sys.executable, *command], cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return copy / "site"


class Requests(HTMLParser):
    """What a browser fetches by itself for a page, and the pages and parts that its links lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and "src" in given:
            self.fetched.append(given["src"])
        if tag == "link" and LINKED & set(given.get("rel", "").split()):
            self.fetched.append(given["href"])
        self.fetched += re.findall(r"url\(([^)]+)\)", given.get("style", ""))


def test_every_page_is_in_the_site_once(site: Path) -> None:
    """In the navigation, and as a page."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = [page for group in nav for pages in group.values() for entry in pages for page in entry.values()]
    made = {"docs/gallery.md", "docs/reference/commands.md", "docs/reference/python.md"}
    made |= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md"}
    assert sorted(named) == sorted({*made, *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))})
    assert all((site / page.replace("README.md", "index.md")).with_suffix(".html").is_file() for page in named)


def test_pages_request_no_other_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    requests = {page: Requests(page).fetched for page in pages}
    assert all(requests.values())  # style sheets and scripts
    assert [r for found in requests.values() for r in found if urlsplit(r).netloc] == []
    missing = [r for page, found in requests.items() for r in found if not target(site, page, r).is_file()]
    assert missing == []
    sheets = [*site.rglob("*.css")]
    assert sheets
    imported = [u for sheet in sheets for u in re.findall(r"url\(([^)]*)\)|@import ([^;]*)", sheet.read_text())]
    assert [u for u in imported if re.match(r"[\"']?(https?:)?//", "".join(u))] == []


def target(site: Path, page: Path, link: str) -> Path:
    base = "/" + str(page.relative_to(site))
    path = unquote(urlsplit(urljoin(base, link.split("#")[0])).path).lstrip("/")
    return site / path / "index.html" if (site / path).is_dir() else site / path


def test_links_between_pages_lead_somewhere(site: Path) -> None:
    """Also those that no Markdown holds, such as the navigation's."""
    parsed = {page: Requests(page) for page in site.rglob("*.html") if page.name != "404.html"}
    for page, found in parsed.items():
        for link in found.links:
            if urlsplit(link).scheme or urlsplit(link).netloc:
                continue
            there = target(site, page, link) if link.split("#")[0] else page
            assert there.is_file(), f"{page.name}: {link}"
            part = unquote(urlsplit(link).fragment)
            assert not part or there not in parsed or part in parsed[there].ids, f"{page.name}: {link}"


def test_the_gallery_shows_every_picture_in_the_order_of_the_report(site: Path) -> None:
    shown = [r for r in Requests(site / "docs" / "gallery.html").fetched if r.startswith("images/")]
    pictures = {f"images/{p.name}" for p in (site.parent / "docs" / "images").glob("report-*")}
    assert sorted(shown) == sorted(pictures)
    assert [r for r in shown if r in {f"images/report-{name}.png" for name in PICTURES}] == [
        f"images/report-{name}.png" for name in PICTURES
    ]


def test_the_search_needs_no_server(site: Path) -> None:
    """Its index is a script, which a page that is opened from a disk may load, and finds every page."""
    index = (site / "search.js").read_text()
    assert "docs/reference/commands.html" in index
    assert "noise removed" in index
    assert any("iframe-worker" in r for r in Requests(site / "index.html").fetched)


def test_a_broken_link_is_an_error(site: Path) -> None:
    work = site.parent
    page = work / "build" / "pages" / "docs" / "glossary.md"
    whole = page.read_text()
    page.write_text(whole + "\n[nowhere](study.md#no-such-part)\n")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=work, capture_output=True, text=True
    )
    page.write_text(whole)
    assert done.returncode != 0
    assert "no-such-part" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


def test_the_reference_has_every_command_and_option(site: Path) -> None:
    page = (site.parent / "build" / "pages" / "docs" / "reference" / "commands.md").read_text()
    parts = dict(re.findall(r"^### `steadytune ([\w -]+)`\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))
    program = typer.main.get_command(app)
    commands = {}
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        under = getattr(command, "commands", None)
        commands.update({f"{name} {n}": c for n, c in under.items()} if under else {name: command})
    assert set(parts) == set(commands)
    for name, command in commands.items():
        options = {o for parameter in command.params for o in parameter.opts if o.startswith("--")}
        assert {o for o in options if o not in parts[name]} == set(), name


def test_the_reference_has_every_public_name(site: Path) -> None:
    page = (site.parent / "build" / "pages" / "docs" / "reference" / "python.md").read_text()
    named = set(re.findall(r"^#+ `([\w.]+)`", page, re.MULTILINE))
    classes = {name: getattr(steadytune, name) for name in ("OpenedStudy", "OpenedRun", "LoadedAdapter")}
    members = {f"{name}.{m}" for name, kind in classes.items() for m in vars(kind) if not m.startswith("_")}
    assert named == {*steadytune.__all__, *members}
