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

from steadytune.adapters import LoadedAdapter, load
from steadytune.runs import OpenedRun
from steadytune.runs import open_run as open
from steadytune.studies import OpenedStudy, study
from trainer.errors import UserError

__version__ = "0.1.0"
__all__ = ["LoadedAdapter", "OpenedRun", "OpenedStudy", "UserError", "load", "open", "study"]
