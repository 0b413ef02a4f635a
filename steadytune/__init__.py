"""Steadytune finds the LoRA fine-tune that keeps working when the prompt is worded differently.

    import steadytune as st

    study = st.study("tickets.yaml", "axes.lr=[1e-4, 3e-4]")
    print(study.check())
    run = study.run()
    print(run.table())
    print(st.load(run.export("adapter")).predict("new.jsonl"))

Importing this loads nothing slow: what a function needs is imported when it is called, and reading a run needs neither
torch nor Ray. A mistake in a study, a name or a file is a ``UserError``, whose message says how to mend it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from steadytune.installed import refuse_foreign_packages

if TYPE_CHECKING:
    from steadytune.adapters import LoadedAdapter, load
    from steadytune.runs import OpenedRun
    from steadytune.runs import open_run as open
    from steadytune.studies import OpenedStudy, study
    from trainer.errors import UserError

try:
    __version__ = version("steadytune")
except PackageNotFoundError:  # run from a folder
    __version__ = "(not installed)"
__all__ = ["LoadedAdapter", "OpenedRun", "OpenedStudy", "UserError", "load", "open", "study"]


def __getattr__(name: str) -> Any:
    """The names above, imported when one is first used, so that ``steadytune.command`` can look at the packages before
    any of them is imported."""
    if name not in __all__:
        raise AttributeError(f'the module "steadytune" has no attribute "{name}"')
    refuse_foreign_packages()
    from steadytune.adapters import LoadedAdapter, load
    from steadytune.runs import OpenedRun, open_run
    from steadytune.studies import OpenedStudy, study
    from trainer.errors import UserError

    globals().update(
        LoadedAdapter=LoadedAdapter,
        OpenedRun=OpenedRun,
        OpenedStudy=OpenedStudy,
        UserError=UserError,
        load=load,
        open=open_run,
        study=study,
    )
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
