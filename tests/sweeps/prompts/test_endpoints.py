"""OpenAI-compatible endpoints, against a real server: what is tried again, what is told, where the key goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from sweeps.prompts.endpoints import (
    MOST_BYTES,
    Endpoint,
    EndpointError,
    RetryLimits,
    _retry_after,
    is_endpoint,
    open_endpoint,
    parse_keys,
)

QUICK = RetryLimits(attempts=4, first_pause=0.01, longest_pause=0.02, timeout=5.0)
ASKED = [{"role": "user", "content": "Answer with a JSON array of 1 strings."}]
SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(answer=lambda body: "hello") as found:
        yield found


def client(server: ChatServer, patience: RetryLimits = QUICK, keys: dict[str, str] | None = None) -> Endpoint:
    return open_endpoint(server.spec(), keys or {}, 100, 0.7, patience)


def test_an_answer_with_its_tokens(server: ChatServer) -> None:
    got = client(server).write(ASKED, 5)
    assert (got.text, got.prompt_tokens, got.completion_tokens, got.failed, got.cut) == ("hello", 8, 1, 0, False)
    headers, body = server.asked[0]
    assert body == {"model": "writer-1", "messages": ASKED, "max_tokens": 100, "temperature": 0.7, "seed": 5}
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    "fault",
    [
        429,
        500,
        503,
        (429, {"Retry-After": "0"}, b""),
        "cut",
        "short",
        "html",
        (200, {}, b"[]"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": null}]}'),
        (200, {}, b'{"error": "busy"}'),
        (200, {}, b"[" * 100_000),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(server: ChatServer, fault: Any) -> None:
    server.faults = [fault, fault]
    got = client(server).write(ASKED, 0)
    assert (got.text, got.failed) == ("hello", 2)


def test_a_slow_answer_is_given_up_and_asked_for_again(server: ChatServer) -> None:
    server.faults, server.slow = ["slow"], 1.0
    got = client(server, RetryLimits(attempts=2, first_pause=0.01, timeout=0.3)).write(ASKED, 0)
    assert (got.text, got.failed) == ("hello", 1)


def test_patience_ends_with_one_line_that_says_what_happened(server: ChatServer) -> None:
    server.faults = [503] * 9
    with pytest.raises(EndpointError, match=r'model "writer-1@.*" gave no answer in 4 attempts.*status 503: fault 503'):
        client(server).write(ASKED, 0)
    assert len(server.asked) == 4


def test_a_server_that_is_not_there() -> None:
    with ChatServer() as server:
        asked = client(server)
    with pytest.raises(EndpointError, match="gave no answer in 4 attempts; the last: the connection failed"):
        asked.write(ASKED, 0)


def test_what_the_server_asks_to_wait_is_waited_or_told(server: ChatServer) -> None:
    server.faults = [(429, {"Retry-After": "4000"}, b"{}")]
    with pytest.raises(EndpointError, match=r"asks to wait 4000 seconds \(status 429.*Run it again then"):
        client(server).write(ASKED, 0)
    assert _retry_after("2.5") == 2.5
    assert _retry_after("nan") is None
    assert _retry_after("soon") is None
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert _retry_after(format_datetime(now + timedelta(seconds=9)), lambda: now.timestamp()) == 9
    assert _retry_after(format_datetime(now - timedelta(seconds=9)), lambda: now.timestamp()) == 0


def test_an_interruption_ends_a_long_wait(server: ChatServer) -> None:
    server.faults = [(429, {"Retry-After": "200"}, b"{}")]
    asked = client(server)
    threading.Timer(0.2, asked.stopped.set).start()
    with pytest.raises(EndpointError, match="was interrupted"):
        asked.write(ASKED, 0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (400, "refuses with status 400. It says: fault 400"),
        (404, "knows no such model or address"),
        ((307, {"Location": "http://example.org/"}, b""), "sends the request elsewhere"),
        ((200, {}, b"x" * (MOST_BYTES + 10)), "sends more than 8 MiB"),
        (401, "it wants a key: --key HOST=NAME"),
    ],
    ids=str,
)
def test_what_cannot_pass_is_told_at_once(server: ChatServer, fault: Any, message: str) -> None:
    server.faults = [fault]
    with pytest.raises(EndpointError) as caught:
        client(server).write(ASKED, 0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_parameters_that_a_server_does_not_take_are_left_out(server: ChatServer) -> None:
    says = b'{"error": {"message": "Unsupported parameter: \'%s\' is not supported with this model."}}'
    server.faults = [(400, {}, says % b"max_tokens"), (400, {}, says % b"temperature")]
    asked = client(server)
    assert asked.write(ASKED, 0).failed == 2
    assert asked.write(ASKED, 1).failed == 0
    for _, body in server.asked[2:]:
        assert body["max_completion_tokens"] == 100
        assert not {"max_tokens", "temperature"} & set(body)


def test_tokens_that_are_not_counted_are_none(server: ChatServer) -> None:
    server.usage, server.finish = False, "length"
    got = client(server).write(ASKED, 0)
    assert (got.prompt_tokens, got.completion_tokens, got.cut) == (None, None, True)


# keys -----------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_and_goes_to_its_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", SECRET)
    with ChatServer(lambda _: "mine", key=SECRET) as mine, ChatServer(lambda _: "other") as other:
        keys = parse_keys([f"{mine.host}=WRITER_KEY"], [mine.spec(), other.spec()])
        assert client(mine, keys=keys).write(ASKED, 0).text == "mine"
        assert client(other, keys=keys).write(ASKED, 0).text == "other"
        assert "Authorization" not in other.asked[0][0]
        assert SECRET not in repr(client(mine, keys=keys))


def test_no_password_of_netrc_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: ChatServer) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client(server).write(ASKED, 0)
    assert "Authorization" not in server.asked[0][0]


@pytest.mark.parametrize("padding", [0, 130, 185])
def test_the_key_is_in_no_message_whole_or_in_part(monkeypatch: pytest.MonkeyPatch, padding: int) -> None:
    monkeypatch.setenv("WRITER_KEY", SECRET)
    with ChatServer() as server:
        said = ("x" * padding + f" bad key {SECRET}").encode()
        asked = client(server, keys={server.host: "WRITER_KEY"})
        for status in (401, 503):
            server.faults = [(status, {}, said)] * 4
            with pytest.raises(EndpointError) as caught:
                asked.write(ASKED, 0)
            assert SECRET[:6] not in str(caught.value)


def test_a_key_that_is_not_set_or_no_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "m@https://api.example.org/v1"
    with pytest.raises(EndpointError, match="is not set") as caught:
        open_endpoint(spec, {"api.example.org": SECRET}, 10, 1.0)
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("WRITER_KEY", "two\nlines")
    with pytest.raises(EndpointError, match="characters that no key has"):
        open_endpoint(spec, {"api.example.org": "WRITER_KEY"}, 10, 1.0)
    with pytest.raises(EndpointError, match=r'no --model is at the host "x.org". Known: api.example.org'):
        parse_keys(["x.org=WRITER_KEY"], [spec])
    with pytest.raises(EndpointError, match="must be HOST=NAME") as caught:
        parse_keys([SECRET], [spec])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("https://api.example.org/v1", "is no endpoint. Write MODEL@URL"),
        (f"m@https://user:{SECRET}@api.example.org/v1", "has a password in it"),
        (f"m@https://api.example.org/v1?api_key={SECRET}", r"has a secret in it (api_key=…)"),
        ("m@https://api.example.org:port/v1", "is no address"),
        ("m@https:///v1", "names no host"),
    ],
)
def test_addresses_that_cannot_be_used(spec: str, message: str) -> None:
    with pytest.raises(EndpointError) as caught:
        open_endpoint(spec, {}, 10, 1.0)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


def test_specs() -> None:
    assert is_endpoint("a@b@http://localhost:8000/v1")
    assert not is_endpoint("Qwen/Qwen2.5-0.5B-Instruct")
    found = open_endpoint("a@b@http://localhost:8000/v1/chat/completions?api-version=1#x", {}, 10, 1.0)
    assert (found.model, found.url) == ("a@b", "http://localhost:8000/v1/chat/completions?api-version=1")
