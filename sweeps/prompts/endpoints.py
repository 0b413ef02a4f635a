"""A model behind an OpenAI-compatible HTTP endpoint, ``MODEL@URL``, asked through chat completions, or with a text that
it goes on with (completions).

Failures that another attempt may mend are tried again: refused or cut connections, time-outs, the statuses 408, 429 and
5xx (after ``Retry-After`` where the server sends it), answers that are no completion. Any other failure is an
``EndpointError`` of one line. The key is read from an environment variable that the user names for the host. It is sent
to that host only, redirects are not followed, and the key is cut out of every message.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from sweeps.prompts.first_token import FirstToken, first_token
from trainer.errors import UserError

MOST_BYTES = 8 * 2**20  # of one answer
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_SPEC = re.compile(r"(?P<model>.+)@(?P<url>https?://.+)")
_SECRET = re.compile(r"key|token|secret|passw|^(?:sig|signature|code)$", re.IGNORECASE)  # URL parameters


class EndpointError(UserError):
    """The endpoint cannot be used; the message names it, never the key."""


class _TransientError(Exception):
    """Another attempt may help. ``wait`` is the pause that the server asked for, in seconds."""

    def __init__(self, why: str, wait: float | None = None):
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class ModelAnswer:
    """An answer with its cost. Tokens are those that the server counted; None where it counts none."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    failed: int = 0  # attempts that failed before it
    cut: bool = False  # whether it ends at the token limit
    first: FirstToken | None = None  # where log-probabilities were asked for and given


@dataclass(frozen=True)
class RetryLimits:
    """All times are in seconds."""

    attempts: int = 6
    first_pause: float = 1.0  # before the second attempt; doubled before each further one
    longest_pause: float = 60.0
    timeout: float = 120.0  # of one attempt, until the last byte
    longest_retry_after: float = 300.0  # a longer Retry-After ends the attempts


@dataclass(frozen=True)
class EndpointOptions:
    """A command's options for a model and for its key, as messages name them."""

    model: str = "--model"
    key: str = "--key HOST=NAME"

    @property
    def key_name(self) -> str:
        return self.key.split()[0]


@dataclass
class Endpoint:
    """``name`` is ``MODEL@URL`` as the user gave it."""

    name: str
    model: str
    url: str  # of the chat completions, with the path
    max_tokens: int
    temperature: float
    limits: RetryLimits = RetryLimits()
    key: str | None = field(default=None, repr=False)
    top_p: float | None = None  # None: the server's
    optional: Collection[str] = ("max_tokens", "temperature", "seed", "top_p")  # left out where they are refused
    options: EndpointOptions = EndpointOptions()
    stopped: threading.Event = field(default_factory=threading.Event, repr=False)
    _refused: set[str] = field(default_factory=set, repr=False)  # parameters that this server does not accept

    def write(self, messages: Sequence[Mapping[str, str]], seed: int) -> ModelAnswer:
        """The model's answer. Raises EndpointError."""
        return self.complete({"messages": list(messages)}, seed)

    def complete(self, asked: Mapping[str, Any], seed: int) -> ModelAnswer:
        """The model's answer to ``asked``: the ``messages`` of a chat, or a ``prompt`` to go on with, and whatever
        other parameters the request is to have. Raises EndpointError."""
        url = self._address("/completions" if "prompt" in asked else "/chat/completions")
        pause, failed = self.limits.first_pause, 0
        while True:
            try:
                return self._completion(self._request(url, self._body(asked, seed)), failed)
            except _TransientError as error:
                failed += 1
                wait = pause if error.wait is None else error.wait
                if failed >= self.limits.attempts:
                    raise self._error(f"gave no answer in {failed} attempts; the last: {error}") from None
                if wait > self.limits.longest_retry_after:
                    raise self._error(f"asks to wait {wait:.0f} seconds ({error}). Run it again then") from None
            if self.stopped.wait(wait):
                raise self._error("was interrupted")
            pause = min(2 * pause, self.limits.longest_pause)

    def models(self) -> list[str]:
        """The names that the server lists; empty where it lists none. Raises EndpointError."""
        try:
            value = self._request(self._address("/models"), None)
        except _TransientError as error:
            raise self._error(f"gave no list of its models: {error}") from None
        try:
            return [str(about["id"]) for about in value["data"]]
        except (KeyError, TypeError):
            return []

    def _address(self, end: str) -> str:
        parts = urlsplit(self.url)
        return parts._replace(path=parts.path.removesuffix("/chat/completions") + end).geturl()

    def _body(self, asked: Mapping[str, Any], seed: int) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        body = {"model": self.model, **asked, limit: self.max_tokens}
        body |= {"temperature": self.temperature, "seed": seed}
        body |= {} if self.top_p is None else {"top_p": self.top_p}
        return {k: v for k, v in body.items() if k not in self._refused}

    def _request(self, url: str, body: dict[str, Any] | None) -> Any:
        """Send the request (without a body a GET) and decode the answer, which has status 200."""
        import requests

        end = time.monotonic() + self.limits.timeout
        try:
            with requests.request(
                "GET" if body is None else "POST", url, json=body, auth=self._sign,
                timeout=(min(10.0, self.limits.timeout), self.limits.timeout), stream=True, allow_redirects=False,
                headers={"Accept": "application/json"},
            ) as answer:  # fmt: skip
                data = bytearray()
                for part in answer.iter_content(65536):
                    data += part
                    if len(data) > MOST_BYTES:
                        raise self._error(
                            f"sends more than {MOST_BYTES // 2**20} MiB. Is it a chat-completions endpoint?"
                        )
                    if time.monotonic() > end:
                        raise _TransientError(f"no whole answer within {self.limits.timeout:g} seconds")
                status, headers = answer.status_code, answer.headers
        except requests.exceptions.SSLError as error:
            raise self._error(f"has no certificate that this machine trusts ({_line(error)})") from None
        except requests.exceptions.Timeout:
            raise _TransientError(f"no answer within {self.limits.timeout:g} seconds") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise self._error(f"is no address ({_line(error)})") from None
        except requests.exceptions.RequestException as error:
            raise _TransientError(f"the connection failed ({type(error).__name__}: {_line(error)})") from None
        return self._decoded(status, headers, bytes(data), body or {})

    def _decoded(self, status: int, headers: Mapping[str, str], data: bytes, body: Mapping[str, Any]) -> Any:
        text = data.decode("utf-8", "replace")
        text = (
            text.replace(self.key, "…") if self.key else text
        )  # before texts are shortened, so that no part of the key is left
        if status in (400, 422, 500, 501) and (name := self._not_taken(status, text, body)):
            self._refused.add(name)  # reasoning models accept no temperature and name the token limit otherwise
            raise _TransientError(f"does not take {name}", 0.0)
        if status in _RETRIED:
            raise _TransientError(f"status {status}: {_server_message(text)}", _retry_after(headers.get("Retry-After")))
        if status in (401, 403):
            wants = f"it wants a key: {self.options.key}, an environment variable"
            how = "the key is not accepted" if self.key else wants
            raise self._error(f"refuses with status {status}; {how}. It says: {_server_message(text)}")
        if 300 <= status < 400:
            raise self._error(f"sends the request elsewhere (status {status}). Give the address itself")
        if status == 404:
            raise self._error(f"knows no such model or address (status 404). It says: {_server_message(text)}")
        if status != 200:
            raise self._error(f"refuses with status {status}. It says: {_server_message(text)}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise _TransientError(f"the answer is no JSON: {_server_message(text)}") from None

    def _not_taken(self, status: int, text: str, body: Mapping[str, Any]) -> str | None:
        """The parameter that the server does not accept and can do without. With an error of its own (500) some say
        that they have no log-probabilities; other names that such a message may hold say nothing."""
        accepted = [n for n in self.optional if n in body and (status < 500 or "logprobs" in n)]
        return next((n for n in accepted if re.search(rf"\b{n}\b", text)), None)

    def _completion(self, value: Any, failed: int) -> ModelAnswer:
        try:
            choice = value["choices"][0]
            content = choice["message"].get("content") if "message" in choice else choice["text"]
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _TransientError(f"the answer is no chat completion: {_server_message(json.dumps(value))}") from None
        if isinstance(content, list):  # a text in parts
            content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
        usage = value.get("usage")
        counts = [usage.get(n) if isinstance(usage, dict) else None for n in ("prompt_tokens", "completion_tokens")]
        known = [n if type(n) is int and n >= 0 else None for n in counts]
        text = content if isinstance(content, str) else ""
        cut = choice.get("finish_reason") == "length"
        return ModelAnswer(text, known[0], known[1], failed, cut, first_token(choice.get("logprobs")))

    def _sign(self, request: Any) -> Any:
        """The authentication hook of requests. With a hook, requests does not read ~/.netrc."""
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _error(self, text: str) -> EndpointError:
        said = f'model "{self.name}" {text}'
        return EndpointError(said.replace(self.key, "…") if self.key else said)


def is_endpoint(spec: str) -> bool:
    return "://" in spec


def open_endpoint(
    spec: str,
    keys: Mapping[str, str],
    max_tokens: int,
    temperature: float,
    limits: RetryLimits | None = None,
    top_p: float | None = None,
    options: EndpointOptions | None = None,
) -> Endpoint:
    """The endpoint of ``MODEL@URL``. ``keys``: host -> the environment variable with its key. ``options``: those with
    which the user named it. Raises EndpointError."""
    options = options or EndpointOptions()
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise EndpointError(
            f'--model = "{_without_password(spec)}" is no endpoint. Write MODEL@URL, such as '
            "gpt-4o-mini@https://api.openai.com/v1"
        )
    model, parts = match["model"], _split(match["url"], spec, options)
    path = parts.path.rstrip("/")
    path += "" if path.endswith("/chat/completions") else "/chat/completions"
    key = None
    host = (parts.hostname or "").lower()
    for name in (parts.netloc.lower(), host):
        if key is None and name in keys:
            key = _key(name, keys[name], options)
    url = parts._replace(path=path, fragment="").geturl()
    limits = limits or RetryLimits()
    return Endpoint(spec, model, url, max_tokens, temperature, limits, key, top_p, options=options)


def parse_keys(texts: Sequence[str], specs: Sequence[str]) -> dict[str, str]:
    """Host -> environment variable, of texts ``HOST=NAME``. Raises EndpointError where no model is at the host."""
    found = {}
    urls = [_split(m["url"], s, EndpointOptions()) for s in specs if (m := _SPEC.fullmatch(s))]
    hosts = {h.lower() for u in urls for h in (u.netloc, u.hostname or "")}
    for text in texts:
        host, sign, name = text.partition("=")
        if not sign or not name:
            raise EndpointError("--key must be HOST=NAME, where NAME is an environment variable, not the key itself")
        if host.lower() not in hosts:
            raise EndpointError(
                f'--key: no --model is at the host "{host}". Known: {", ".join(sorted(hosts)) or "none"}'
            )
        found[host.lower()] = name
    return found


def _key(host: str, name: str, options: EndpointOptions) -> str:
    key = os.environ.get(name, "").strip()
    if not key:  # the name is not repeated: it may be the key itself
        raise EndpointError(
            f"{options.key_name} for {host}: the environment variable that it names is not set. Give a variable's "
            "name, not the key"
        )
    if not key.isascii() or not key.isprintable():
        raise EndpointError(f"{options.key_name} for {host}: the environment variable holds characters that no key has")
    return key


def _split(url: str, spec: str, options: EndpointOptions) -> SplitResult:
    shown = _without_password(spec)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise EndpointError(f'{options.model} = "{shown}": is no address ({error})') from None
    if parts.username or parts.password:
        raise EndpointError(
            f'{options.model} = "{shown}": has a password in it, which files and process lists would show. '
            f"Use {options.key}"
        )
    if not parts.hostname:
        raise EndpointError(f'{options.model} = "{shown}": names no host')
    if secret := next((name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)), None):
        raise EndpointError(
            f'{options.model} = "{shown.partition("?")[0]}?…": has a secret in it ({secret}=…), which files and '
            f"process lists would show. Use {options.key}, an environment variable"
        )
    return parts


def _without_password(spec: str) -> str:
    return re.sub(r"://[^/]*@", "://…@", spec)


def _retry_after(text: str | None, now: Callable[[], float] = time.time) -> float | None:
    """The header's number of seconds, or the seconds until its date; None where it has neither."""
    if not text:
        return None
    try:
        return max(0.0, float(text)) if text.strip().lower() not in ("nan", "inf", "infinity") else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError):
        return None


def _server_message(text: str) -> str:
    """A server's message in one short line without control characters; of JSON the error's message."""
    try:
        value = json.loads(text)
        error = value.get("error", value.get("detail", value)) if isinstance(value, dict) else value
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError):
        pass
    return _line(text) or "nothing"


def _line(text: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:200]
