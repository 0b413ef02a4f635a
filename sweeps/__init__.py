"""What to run, when to stop, and what it means: study, scheduler, tables, report, command line."""
