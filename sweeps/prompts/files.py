"""Pool files in YAML, one ``id: "text"`` per prompt, under a comment that says where the wordings come from."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from sweeps.run_folder.prompts import usage_file
from trainer.data.likeness import Likeness, clusters, similarity
from trainer.data.pools import load_pool, split_pool
from trainer.data.wording import Prompt
from trainer.errors import UserError


class PoolFileError(UserError):
    """A pool file cannot be written, or must not be replaced."""


def content_id(text: str) -> str:
    """The id of a wording that has none. It depends on the text alone, so adding wordings changes no other id."""
    return "p" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]


def pool_text(header: Iterable[str], groups: Mapping[str, Sequence[Prompt]]) -> str:
    """A pool file: ``header`` as comment lines, then each group of prompts under its title, if it has one.
    ``load_pool`` reads the same prompts back, whatever characters their texts hold."""
    lines = [_comment(line) for line in header]
    for title, prompts in groups.items():
        if prompts and title:
            lines.append(_comment(title))
        lines += [f"{_key(p.id)}: {quoted(p.text)}" for p in prompts]
    return "\n".join(lines) + "\n"


def _comment(line: str) -> str:
    """One comment line; characters that would end it are replaced by spaces."""
    return f"# {' '.join(''.join(c if c.isprintable() else ' ' for c in line).split())}".rstrip()


def _key(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z][\w.-]*", name) and yaml.safe_load(name) == name
    return name if plain else quoted(name)


def quoted(text: str) -> str:
    """``text`` in double quotes, on one line, as YAML reads it back."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=2**30).strip("\n")


def check_local(path: str) -> None:
    """Raise PoolFileError for a URL: pools and journals are files on this machine."""
    if "://" in path:
        raise PoolFileError(f'--out = "{path}" is no path on this machine. Write the file here, then copy it')


def write_file(path: str, text: str) -> None:
    """Write the file whole or not at all. Raises UserError."""
    from trainer.store import Store

    check_local(path)
    place = Path(path).absolute()
    Store.open(place.parent).write(place.name, text.encode())


# splitting ------------------------------------------------------------------------------------------------------


def read_pools(paths: Sequence[str]) -> list[Prompt]:
    """The prompts of several files as one pool. Raises UserError where two files have one id for different texts."""
    found: dict[str, tuple[Prompt, str]] = {}
    for path in paths:
        for prompt in load_pool(path):
            if prompt.id in found and found[prompt.id][0] != prompt:
                raise PoolFileError(
                    f'{path}: prompt id "{prompt.id}" stands for another text in {found[prompt.id][1]}. Rename one'
                )
            found.setdefault(prompt.id, (prompt, path))
    return [prompt for prompt, _ in found.values()]


def split_files(
    paths: Sequence[str], folder: str, shares: Mapping[str, float], seed: int, overwrite: bool = False
) -> list[str]:
    """Write ``folder``/train.yaml, dev.yaml and test.yaml (no file for a share of 0); returns lines that say how the
    prompts were divided. Raises UserError, before anything is written, where one of the files holds other prompts."""
    check_local(folder)
    prompts = read_pools(paths)
    dealt = {name: pool for name, pool in split_pool(prompts, shares, seed).items() if pool}
    cut = ", ".join(f"{name} {share:g}" for name, share in shares.items())
    origin = ", ".join(os.path.basename(p) for p in paths)
    texts = {}
    for name, pool in dealt.items():
        header = [
            f"{name}: {len(pool)} of the {len(prompts)} prompts of {origin}.",
            f"Made by `steadytune prompts split` with {cut}, seed {seed}; near duplicates are in one pool.",
        ]
        texts[os.path.join(folder, f"{name}.yaml")] = pool_text(header, {"": pool})
    for path, text in texts.items():
        _check_free(path, text, overwrite)
    spent = [_lines(usage_file(p)) for p in paths if os.path.isfile(usage_file(p))]
    train = os.path.join(folder, "train.yaml")
    if train in texts and os.path.exists(train) and Path(train).read_bytes() != texts[train].encode():
        Path(usage_file(train)).unlink(missing_ok=True)  # it counts the tokens of the prompts that are replaced now
    for path, text in texts.items():
        write_file(path, text)
    if spent and train in texts:  # the train pool keeps the record of what its prompts cost
        lines = [*spent[0], *(line for other in spent[1:] for line in other[1:])]
        write_file(usage_file(train), "\n".join(lines) + "\n")
    return [*(f"{path}: {len(load_pool(path))} prompts" for path in texts), *_split_notes(prompts, dealt)]


def _lines(path: str) -> list[str]:
    return Path(path).read_bytes().decode("utf-8", "replace").rstrip("\n").split("\n")


def _check_free(path: str, text: str, overwrite: bool) -> None:
    file = Path(path)
    if file.exists() and not overwrite and file.read_bytes() != text.encode():
        raise PoolFileError(
            f"{path}: holds other prompts already. Name another --out, or replace it with --overwrite (trials "
            "that read it would be other trials)"
        )


def _split_notes(prompts: Sequence[Prompt], dealt: Mapping[str, Sequence[Prompt]]) -> list[str]:
    groups = [g for g in clusters([p.text for p in prompts]) if len(g) > 1]
    lines = []
    if groups:
        n = sum(map(len, groups))
        lines.append(f"{n} prompts are near duplicates of another; each of the {len(groups)} groups went into one pool")
    closest = _closest(dealt)
    if closest is not None:
        value, a, b = closest
        lines.append(
            f"nearest two of different pools: {a} and {b}, similarity {value:.2f} (near duplicates: from 0.80)"
        )
    return lines


def _closest(dealt: Mapping[str, Sequence[Prompt]]) -> tuple[float, str, str] | None:
    """(similarity, id, id) of the two most similar prompts of different pools. Only the 200 pairs with the most common
    words are compared exactly: for all pairs of a large pool that would take minutes."""
    parts = [(name, p.id, Likeness.of(p.text)) for name, pool in dealt.items() for p in pool]
    pairs = [
        (len(x.pairs & y.pairs) / max(1, len(x.pairs | y.pairs)), i, j)
        for i, (a, _, x) in enumerate(parts)
        for j, (b, _, y) in enumerate(parts[:i])
        if a != b
    ]
    likely = sorted(pairs, reverse=True)[:200]
    found = [(similarity(parts[i][2], parts[j][2]), parts[j][1], parts[i][1]) for _, i, j in likely]
    return max(found, default=None, key=lambda f: f[0])
