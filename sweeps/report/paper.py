"""``steadytune report RUN --figures DIR``: each figure as SVG, PDF and PNG, and each table as LaTeX, for a paper.

The tables are those of the run folder as it is, so ``write.report_on`` comes first.
"""

from __future__ import annotations

from sweeps.display.table_files import latex_table, read_markdown_rows
from sweeps.display.vega import files
from sweeps.report.figures import figures_of_run
from sweeps.report.table_parts import parts_of_run
from sweeps.run_folder.reading import RunFolder
from trainer.store import Store


def write_paper_files(run: RunFolder, target: Store) -> list[str]:
    """Write figures and tables of ``run`` into ``target`` and return the names of the files."""
    found = _figures(run) | _tables(run)
    for name, data in found.items():
        target.write(name, data)
    return list(found)


def _figures(run: RunFolder) -> dict[str, bytes]:
    drawn = [*figures_of_run(run), *parts_of_run(run).figures]
    return {f"{f.name}.{ending}": data for f in drawn for ending, data in files(f.spec).items()}


def _tables(run: RunFolder) -> dict[str, bytes]:
    """A table that has its own LaTeX in the run folder, as it is there; the others, made of their Markdown."""
    found: dict[str, bytes] = {}
    names = run.store.names("tables")
    for name in (n for n in sorted(names) if n.endswith(".md")):
        own = name.removesuffix(".md") + ".tex"
        if own in names:
            found[own] = run.store.read(f"tables/{own}")
        elif rows := read_markdown_rows(page := run.store.read(f"tables/{name}").decode()):
            title = page.partition("\n")[0].removeprefix("# ")
            found[own] = latex_table(title, rows[0], rows[1:]).encode()
    return found
