"""``steadytune verify``: ask a server the questions of an exported study, and hold its answers against ``predict``'s.

Both answer greedily, with at most as many tokens as the study's scorer ``generate`` has. The exit code is 0 where
nothing differs but by rounding, and 1 where something does; then the set-ups that are known to go wrong are tried here,
and the one that gives the server's answers is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from sweeps.export.predict import ExportedAdapter
from sweeps.prompts.endpoints import (
    Endpoint,
    EndpointError,
    EndpointOptions,
    ModelAnswer,
    RetryLimits,
    open_endpoint,
)
from sweeps.verify import sampling
from sweeps.verify.compare import compare
from sweeps.verify.lines import by_labels, differences, figures, reason
from sweeps.verify.questions import as_requests, rows_to_ask
from sweeps.verify.reference import ReferenceModel
from sweeps.verify.setups import ServerSetup
from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.errors import UserError, short
from trainer.trial import Trial

ROWS = 100
# A difference of probabilities up to which rounding may be the reason: bfloat16 may move them so far (docs/models.md).
TOLERANCE = 0.1
PATIENCE = RetryLimits(attempts=6, first_pause=0.25, longest_pause=2.0, timeout=300.0)
TOP = {
    "messages": {"logprobs": True, "top_logprobs": 20},
    "prompt": {"logprobs": 5},
}  # as many as servers commonly give
OPTIONAL = ("max_tokens", "seed", "logprobs", "top_logprobs", "chat_template_kwargs")
VLLM_RANK = 16  # the highest that vLLM loads unless it is told otherwise


@dataclass(frozen=True)
class ServerAddress:
    """``api_key_env``: the environment variable with the key, where the server wants one."""

    url: str
    model: str | None = None
    api_key_env: str | None = None


def verify(
    folder: str,
    server: ServerAddress,
    n_rows: int = ROWS,
    data: str | None = None,
    prompt: str | None = None,
    base: str | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    trust_remote_code: bool = False,
    tolerance: float = TOLERANCE,
    say: Callable[[str], None] = lambda text: None,
    tell: Callable[[str], None] = print,
) -> int:
    """Verify the ``server`` of the export in ``folder``. ``data``: a file with rows, default the study's test rows;
    ``n_rows`` of them are asked. ``tell`` is called with each line of the result, ``say`` with what begins. Returns 0
    where the server answers as the adapter was trained, else 1. Raises UserError."""
    adapter = ExportedAdapter(folder, base, dtype, trust_remote_code)
    trial = adapter.exported.trial
    wording = _wording(adapter, prompt)
    adapter.check_base()
    renderer = Renderer(load_tokenizer(trial.model), trial.template, trial.task)
    _refuse(adapter, renderer)
    name, rows = rows_to_ask(adapter, wording, data, n_rows)
    rows = _short_enough(renderer, wording, rows)
    endpoint = _open(server, trial)
    asked = as_requests(renderer, wording, rows)
    say(f"asking {endpoint.name} about {len(rows)} rows of {name}")
    there = [_ask(endpoint, trial, asked[i], 0) for i in range(len(rows))]
    say(f"answering them on {trial.model.path}")
    model = ReferenceModel(adapter.predictor, adapter.tensors, wording, rows)
    right = ServerSetup(trial.template)
    everything = range(len(rows))
    here = model.answers(right, everything, adapter.predictor.renderer.requests([(wording, row) for row in rows]))
    found = compare(model, everything, here, there, tolerance)
    tell(f'asked: {len(rows)} rows of {name} under the prompt "{wording.id}", of {endpoint.name}')
    for line in figures(found, rows, sum(a.index is None for a in here)):
        tell(line)
    if trial.scoring.scorer == "labels":
        tell(by_labels(adapter, wording, rows, model, there))
    drawn = sampling.evidence(model, here, there, found, lambda i, seed: _ask(endpoint, trial, asked[i], seed))
    if not drawn and found.same:
        but = ", but for rounding" if found.rounded else ""
        tell(f"verified: the server answers as the adapter was trained{but}")
        return 0
    say("looking for the reason")
    for line in differences(found, rows, here, there):
        tell(line)
    tell(f"not verified: {reason(drawn, model, trial, there, found)}")
    return 1


# before anything is asked -----------------------------------------------------------------------------------------


def _wording(adapter: ExportedAdapter, prompt: str | None) -> Prompt:
    exported = adapter.exported
    if prompt is None and exported.prompt is None and exported.train_prompts:
        prompt = next(iter(exported.train_prompts))
    return adapter.wording(prompt)


def _refuse(adapter: ExportedAdapter, renderer: Renderer) -> None:
    if adapter.exported.trial.model.head == "classifier":
        raise UserError(
            f"{adapter.uri}: a classifier writes no text, so no server of completions can answer for it. Compare with "
            "predict where it is served otherwise"
        )
    if renderer.thought_end:
        raise UserError(
            f'{adapter.uri}: under the template "{renderer.template.name}" the model thinks before it answers, and '
            "servers cut thoughts off in ways of their own, so answers cannot be compared. Compare accuracies"
        )


def _short_enough(renderer: Renderer, wording: Prompt, rows: list[Row]) -> list[Row]:
    """Without the rows that are longer than the adapter was trained with, which ``predict`` would refuse."""
    lengths = renderer.lengths([(wording, row) for row in rows])
    kept = [row for row, n in zip(rows, lengths, strict=True) if n <= renderer.task.max_length]
    if not kept:
        raise UserError(
            f"rows: all are longer than the {renderer.task.max_length} tokens that the adapter was trained with. Give "
            "shorter ones with --data FILE"
        )
    return kept


def _open(server: ServerAddress, trial: Trial) -> Endpoint:
    url = server.url if "://" in server.url else f"http://{server.url}"
    if not url.startswith(("http://", "https://")):
        raise UserError(f'--url = "{short(url)}" is no http address. Give one such as http://127.0.0.1:8000/v1')
    variable = server.api_key_env
    if variable is not None and not os.environ.get(variable, "").strip():
        raise UserError(
            "--api-key-env: the environment variable that it names is not set. Give a variable's name, not the key"
        )
    if server.model is not None:
        return _endpoint(server.model, url, variable, trial)
    known = replace(_endpoint("any", url, variable, trial), name=url).models()
    if len(known) != 1:
        listed = f"serves {', '.join(map(short, known[:20]))}" if known else "lists no models"
        raise UserError(f"--url = {url}: the server {listed}. Say which one is the adapter: --model NAME")
    return _endpoint(known[0], url, variable, trial)


def _endpoint(model: str, url: str, variable: str | None, trial: Trial) -> Endpoint:
    keys = {} if variable is None else {(urlsplit(url).hostname or "").lower(): variable}
    options = EndpointOptions("--url", "--api-key-env NAME")
    new = trial.scoring.max_new_tokens
    made = open_endpoint(f"{model}@{url}", keys, new, 0.0, PATIENCE, options=options)
    return replace(made, optional=OPTIONAL)


def _ask(endpoint: Endpoint, trial: Trial, asked: Mapping[str, Any], seed: int) -> ModelAnswer:
    top = TOP["messages" if "messages" in asked else "prompt"]
    try:
        return endpoint.complete({**asked, **top}, seed)
    except EndpointError as error:
        known = _known_models(endpoint)
        if endpoint.model in known:
            raise
        if not known:
            short_path = urlsplit(endpoint.url).path == "/chat/completions" and "status 404" in str(error)
            raise EndpointError(f"{error}{'. Does the address lack its /v1?' if short_path else ''}") from None
        hint = ""
        if trial.lora.r > VLLM_RANK:
            hint = (
                f" This adapter has rank {trial.lora.r}: vLLM loads none above {VLLM_RANK} unless it is started with "
                f"--max-lora-rank {trial.lora.r}."
            )
        raise EndpointError(
            f"{str(error).rstrip('.')}. The server lists other models: {', '.join(map(short, known[:20]))}.{hint} Give "
            "the adapter's name there: --model NAME"
        ) from None


def _known_models(endpoint: Endpoint) -> list[str]:
    try:
        return endpoint.models()
    except EndpointError:
        return []
