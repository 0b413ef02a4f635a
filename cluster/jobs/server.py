"""Studies as Ray jobs: send them to a cluster's job server, find them, read their logs, stop them.

All requests go to the Jobs API of the head's dashboard, so the client needs no other open port and may disconnect at
any time. A job's id is ``<base>-<attempt>``. The base is made from the study and its run folder: if the same study is
sent while its job runs, that job is found and no second one starts. Ray does not use the id of a job that has ended
again, so each further attempt has the next number.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.connect import set_auth_mode, token_source
from cluster.ray_private import node_summaries, quiet_job_client
from trainer.errors import UserError, nearest

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
TIMEOUT = 10.0  # seconds to reach the job server
NODES_KNOWN = 20.0  # seconds after which a head that has just started knows its nodes
RETRIES = 30  # attempts to follow a log again after the connection broke, one a second
TUNNEL = "ssh -N -L 8265:localhost:8265 HEAD"


class JobError(UserError):
    """The cluster cannot be reached, refuses the request, or has no such job."""


@dataclass(frozen=True)
class Job:
    """One attempt to run a study. ``study`` and ``run`` are empty for jobs that ``ray job submit`` sent."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED
    message: str
    study: str
    run: str  # the run folder
    entrypoint: str
    started: float  # seconds since 1970
    ended: float | None

    @property
    def over(self) -> bool:
        return self.status in ENDED

    @property
    def base(self) -> str:
        return re.sub(r"-\d+$", "", self.id)

    @property
    def attempt(self) -> int:
        found = re.search(r"-(\d+)$", self.id)
        return int(found[1]) if found else 1


@dataclass(frozen=True)
class Node:
    id: str
    host: str
    head: bool


class JobServer:
    """The job server of a cluster, at ``address``, such as http://localhost:8265."""

    def __init__(self, address: str | None):
        self.address = dashboard_address(address)
        wanted = os.environ.get("RAY_AUTH_MODE") != "disabled"
        set_auth_mode()  # before Ray is imported, which reads it once
        with self._job_errors():
            self.unguarded = _asks_no_token(self.address) and wanted  # not by the user's own choice
            from ray.job_submission import JobSubmissionClient

            quiet_job_client()
            with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray puts both over the address it is given
                self._client = JobSubmissionClient(self.address)

    # jobs and nodes -------------------------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Every submitted job, newest first."""
        with self._job_errors():
            found = [_job(d) for d in self._client.list_jobs() if d.submission_id]
        return sorted(found, key=lambda j: -j.started)

    def job(self, job_id: str) -> Job:
        with self._job_errors(job_id):
            return _job(self._client.get_job_info(job_id))

    def find(self, name: str) -> list[Job]:
        """The jobs with this id, id without the attempt, study or run folder, newest first. Raises JobError if there is
        none."""
        jobs = self.jobs()
        exact = [j for j in jobs if j.id == name]
        if exact:
            return exact
        ours = [j for j in jobs if j.run]
        found = [j for j in ours if name in (j.base, j.study, j.run, os.path.basename(j.run)) or _same(name, j.run)]
        if not found:
            known = [n for j in jobs for n in (j.id, j.study) if n]
            raise JobError(f'job "{name}" is not known to {self.address}.{nearest(name, known)}')
        return found

    def newest(self, name: str) -> Job:
        """The running job of that ``name``, else the one that ran last. Raises JobError if two studies match."""
        found = self.find(name)
        running = [j for j in found if not j.over]
        if len({j.base for j in running}) > 1:
            raise JobError(f'"{name}" are {len(running)} running jobs: {", ".join(j.id for j in running)}. Name one')
        return (running or found)[0]

    def nodes(self) -> list[Node]:
        """The nodes that are alive. Waits for a head that has just started, which lists none for some seconds."""
        end = time.monotonic() + NODES_KNOWN
        while True:
            with self._job_errors():
                summaries = node_summaries(self._client)
            raylets = [(n.get("hostname", ""), n.get("raylet", {})) for n in summaries]
            alive = [(host, r) for host, r in raylets if r.get("state") == "ALIVE"]
            if any(host for host, _ in alive) or time.monotonic() > end:
                return [Node(r.get("nodeId", ""), host, bool(r.get("isHeadNode"))) for host, r in alive]
            time.sleep(0.5)

    # submitting, stopping, reading logs -----------------------------------------------------------------------------

    def submit(
        self, base: str, entrypoint: str, folder: str, metadata: Mapping[str, str], env: Mapping[str, str]
    ) -> tuple[Job, bool]:
        """(job, whether it is new): the attempt of ``base`` that has not ended, or else the next one, which starts in
        ``folder``."""
        earlier = [j for j in self.jobs() if re.fullmatch(rf"{re.escape(base)}-\d+", j.id)]
        running = [j for j in earlier if not j.over]
        if running:
            return running[0], False
        job_id = f"{base}-{1 + max((j.attempt for j in earlier), default=0)}"
        environment = {"working_dir": folder, "env_vars": dict(env)}
        try:
            with self._job_errors():
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job_id,
                    runtime_env=environment,
                    metadata=dict(metadata),
                )
        except JobError:
            if any(j.id == job_id for j in self.jobs()):  # another client was faster
                return self.job(job_id), False
            raise
        return self.job(job_id), True

    def stop(self, job_id: str, wait: float = 60.0) -> Job:
        """Ask the job to end, and wait until it has ended."""
        with self._job_errors(job_id):
            self._client.stop_job(job_id)
        end = time.monotonic() + wait
        while not (job := self.job(job_id)).over:
            if time.monotonic() > end:
                raise JobError(
                    f"job {job_id} was asked to stop and is {job.status} after {wait:.0f} s. Look at its logs"
                )
            time.sleep(0.3)
        return job

    def logs(self, job_id: str) -> str:
        with self._job_errors(job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Give the log to ``write``, from its beginning and as it grows, until the job ends. After a broken
        connection it goes on where it was."""
        seen, failed = 0, 0
        while not (job := self.job(job_id)).over:
            before = seen
            try:
                for text in _chunks(self._client, job_id, skip=seen):
                    seen += len(text)
                    write(text)
            except Exception as error:  # aiohttp and Ray raise many kinds
                failed = 0 if seen > before else failed + 1
                if failed > RETRIES:
                    detail = " ".join(str(error).split())[:200]
                    raise JobError(
                        f"the log of {job_id} cannot be followed ({type(error).__name__}: {detail}). The job goes on; "
                        f"read what there is with: steadytune logs {job_id}"
                    ) from None
            time.sleep(1)
        rest = self.logs(job_id)[seen:]
        if rest:
            write(rest)
        return job

    # errors ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _job_errors(self, job_id: str = "") -> Iterator[None]:
        """Raise what the job server or the connection to it raises as a JobError."""
        import requests

        try:
            yield
        except (requests.RequestException, ConnectionError) as error:
            raise JobError(
                f"cluster {self.address} cannot be reached ({_reason(error)}). Is this the address of the head's "
                f"dashboard? From outside, open a tunnel first: {TUNNEL}"
            ) from None
        except Exception as error:
            text = str(error)
            if type(error).__name__ == "AuthenticationError":  # Ray's, which may not be imported yet
                raise JobError(self._refused(text)) from None
            if not isinstance(error, RuntimeError):  # Ray's for every other answer than 200
                raise
            if job_id and ("404" in text or "does not exist" in text):
                raise JobError(f'job "{job_id}" is not known to {self.address}') from None
            raise JobError(f"cluster {self.address}: {_first_line(error)}") from None

    def _refused(self, text: str) -> str:
        where = token_source()
        if "required" in text.split("\n")[0] or not where:
            return (
                f"cluster {self.address} accepts no request without its token, and this client has none. Put it "
                "into RAY_AUTH_TOKEN, or a file with it into RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
                + (" (RAY_AUTH_MODE is disabled here: unset it)" if where else "")
            )
        return (
            f"cluster {self.address} refuses the token from {where}: it belongs to another cluster. Put the token of "
            "this one there"
        )


def dashboard_address(address: str | None) -> str:
    """``address``, else RAY_API_SERVER_ADDRESS or RAY_ADDRESS, as the URL of a dashboard. Raises JobError."""
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    example = "such as http://localhost:8265"
    if not given:
        raise JobError(f"--address is missing: the head's dashboard, {example}. RAY_ADDRESS is read as well")
    text = given if "://" in given else f"http://{given}"
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "https"):  # Ray imports the module that another scheme names
        raise JobError(f'--address = "{given}" is no dashboard. Give the address of the head\'s dashboard, {example}')
    if "@" in rest.split("/")[0]:
        raise JobError("--address carries a password. Give the token in RAY_AUTH_TOKEN or ~/.ray/auth_token instead")
    if rest.split("/")[0].endswith(":6379"):
        raise JobError(f'--address = "{given}" is the port for nodes. Give that of the head\'s dashboard, {example}')
    return text.rstrip("/")


def _asks_no_token(address: str) -> bool:
    """Whether the cluster takes requests without a token. It answers this question without a token, too."""
    import requests

    answer = requests.get(f"{address}/api/authentication_mode", timeout=TIMEOUT)
    if "json" not in answer.headers.get("content-type", ""):  # a Ray before 2.52 has no authentication at all
        answer = requests.get(f"{address}/api/version", timeout=TIMEOUT)
        if "json" not in answer.headers.get("content-type", "") or "ray_version" not in answer.json():
            raise JobError(f"{address} answers, but is not the dashboard of a Ray cluster")
        return True
    return bool(answer.json().get("authentication_mode") != "token")


@contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {n: os.environ.pop(n) for n in names if n in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _chunks(client: Any, job_id: str, skip: int) -> Iterator[str]:
    """The log's text beyond its first ``skip`` characters, until the server closes the connection."""
    stream = client.tail_job_logs(job_id)
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                text = loop.run_until_complete(anext(stream))
            except StopAsyncIteration:
                return
            fresh, skip = text[skip:], max(0, skip - len(text))
            if fresh:
                yield fresh
    finally:
        loop.run_until_complete(stream.aclose())
        loop.close()


def _job(details: Any) -> Job:
    about = details.metadata or {}
    status = getattr(details.status, "value", details.status)
    ended = details.end_time / 1000 if details.end_time else None
    return Job(
        details.submission_id, str(status), details.message or "", about.get("study", ""), about.get("run", ""),
        details.entrypoint or "", (details.start_time or 0) / 1000, ended,
    )  # fmt: skip


def _same(path: str, run: str) -> bool:
    return "://" not in run and os.path.abspath(path) == run


def _reason(error: BaseException) -> str:
    """The cause inside the layers of an HTTP error: ``Connection refused``."""
    found = re.search(r"\[Errno -?\d+\] ([\w ,]+)", str(error))
    return found[1] if found else "no answer" if "imed out" in str(error) else _first_line(error)


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
