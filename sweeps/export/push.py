"""``export --push OWNER/NAME``: the files of an export in a new repository of the hub.

What can be asked is asked before the export is made: the name, the token, whose namespace it is, and what is there. An
upload that fails leaves the folder, and the message says how to go on from it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from trainer.errors import UserError, nearest

Result = TypeVar("Result")
OWN_FILES = (".gitattributes",)  # what the hub itself puts into a new repository
OTHER_NAME = "Give another name, or remove what is there on the hub first"


@dataclass(frozen=True)
class Repository:
    """A repository that this user may make, or has made and left empty."""

    name: str  # OWNER/NAME
    private: bool

    def upload(self, folder: Path) -> str:
        """Make the repository and send the files; returns its address. Raises ``UserError``."""
        api, again = _api(), f"{folder} is written. Try again with: hf upload {self.name} {folder}"
        visible = " --private" if self.private else ""
        url = self._asked(lambda: api.create_repo(self.name, private=self.private, exist_ok=True), again + visible)
        message = "Export of steadytune"
        self._asked(lambda: api.upload_folder(repo_id=self.name, folder_path=folder, commit_message=message), again)
        return str(url)

    def _asked(self, act: Callable[[], Result], again: str) -> Result:
        return _asked(act, f'--push = "{self.name}"', again)


def repository(name: str, public: bool) -> Repository:
    """The repository ``name`` where it can be pushed to. Raises ``UserError``."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    said = f'--push = "{name}"'
    try:
        validate_repo_id(name)
        owner, _, own = name.partition("/")
        if not own:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        raise UserError(f"{said} is no name of a repository ({_line(error)}). Give OWNER/NAME") from None
    if get_token() is None:
        raise UserError(f"{said}: there is no token for the hub. Log in with `hf auth login`, or set HF_TOKEN")
    api = _api()
    who = _asked(lambda: api.whoami(), said, "Nothing was exported")
    owners = [str(who.get("name")), *(str(o.get("name")) for o in who.get("orgs") or [])]
    if owner not in owners:
        raise UserError(f'{said}: the token is of {owners[0]}, who is no member of "{owner}".{nearest(owner, owners)}')
    if ((who.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise UserError(f"{said}: the token of {owners[0]} may only read. Make one on the hub that may write")
    found = _asked(lambda: _repo_info(api, name), said, "Nothing was exported")
    if found is not None:
        files = [f.rfilename for f in found.siblings or [] if f.rfilename not in OWN_FILES]
        if files:
            raise UserError(f"{said} exists, and holds {len(files)} files, such as {files[0]}. {OTHER_NAME}")
        if bool(found.private) is public:
            there, wanted = ("private", "leave out --public") if public else ("public", "add --public")
            raise UserError(f"{said} exists, empty and {there}. Change that on the hub, or {wanted}")
    return Repository(name, private=not public)


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi()


def _repo_info(api: Any, name: str) -> Any:
    from huggingface_hub.errors import RepositoryNotFoundError

    with suppress(RepositoryNotFoundError):
        return api.model_info(name)
    return None


def _asked(act: Callable[[], Result], said: str, again: str) -> Result:
    """What ``act`` gives. Raises ``UserError`` with ``again`` for what the hub or the network answers instead."""
    try:
        return act()
    except Exception as error:
        # What huggingface_hub's HTTP library raises has no common parent, and the library's name changes.
        if not (isinstance(error, (OSError, ValueError, RuntimeError)) or type(error).__module__.startswith("http")):
            raise
        _refuse(error, said, again)


def _refuse(error: Exception, said: str, again: str) -> NoReturn:
    cause: BaseException = error
    while cause.__cause__ is not None and getattr(cause, "response", None) is None:
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 401:
        raise UserError(f"{said}: the hub does not know the token (HTTP 401). Log in with `hf auth login`. {again}")
    if status == 403:
        raise UserError(f"{said}: this token may not write there (HTTP 403: {_line(cause)}). Take another. {again}")
    if status is not None:
        raise UserError(f"{said}: the hub refuses (HTTP {status}: {_line(cause)}). {again}")
    raise UserError(f"{said}: no usable answer of the hub ({_line(error)}). Check the network and HF_ENDPOINT. {again}")


def _line(error: BaseException) -> str:
    """What the server said, or the first line of the error."""
    said = getattr(error, "server_message", None) or str(error)
    return next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__).rstrip(".")
