"""The list of all messages finds them all."""

from __future__ import annotations

import ast

from checkout import FILES, ROOT
from messages import messages, user_errors

FOUND = messages()


def test_every_error_that_is_raised_is_in_the_list() -> None:
    trees = {path: ast.parse(path.read_text()) for path in FILES}
    errors = user_errors(trees.values())
    assert {"UserError", "StudyError", "PromptError", "StoreError"} <= errors
    listed = {(m.file, m.line) for m in FOUND}
    raised = {
        (path.relative_to(ROOT).as_posix(), node.exc.lineno)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in errors
    }
    assert len(raised) > 100
    assert raised <= listed


def test_messages_of_every_kind_are_found_with_their_constant_parts() -> None:
    texts = {part for message in FOUND for part in message.parts}
    for text in (
        ": is a folder, not a study file",  # raised
        "training and scoring see different token ids",  # a finding
        "is a single seed, and stage 5 must tell effects from chance. Give two or more, such as [0, 1, 2]",  # a problem
        "must ascend from above 0 and end at 1.0, such as [0.25, 0.5, 1.0]",
        "each holds an adapter and a process, on one accelerator",  # the reason of a bound
        "an alias stands inside what it is an alias of",  # a fault of a YAML file
        '" has no value. Write ',
        '" occurs more than once: ',  # joined
    ):
        assert text in texts, text
    assert all(m.parts or m.kind for m in FOUND)
