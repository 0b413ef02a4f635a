"""What of this process's environment the processes of a local Ray get: the names listed here, and nothing else.

Ray would hand the whole environment to each of them, with every password that happens to be in it. A credential is
passed on only to a run that needs it: one with its run folder on that storage, or with a model from the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

NAMES = {
    "PATH": "programs",
    "HOME": "caches of libraries",
    "USER": "libraries name their folders after it",
    "LOGNAME": "as USER",
    "TMPDIR": "temporary files",
    "LANG": "text in files",
    "LANGUAGE": "as LANG",
    "TZ": "times in logs",
    "VIRTUAL_ENV": "the Python that runs",
    "CONDA_PREFIX": "as VIRTUAL_ENV",
    "LD_LIBRARY_PATH": "compiled libraries",
    "LD_PRELOAD": "memory allocators",
    "XDG_CACHE_HOME": "caches of libraries",
    "SSL_CERT_FILE": "the certificates that this place trusts",
    "SSL_CERT_DIR": "as SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE": "as SSL_CERT_FILE",
    "CURL_CA_BUNDLE": "as SSL_CERT_FILE",
    "NO_PROXY": "which hosts are reached directly",
    "no_proxy": "as NO_PROXY",
}
FAMILIES = {
    "LC_": "text in files",
    "PYTHON": "how Python itself behaves",
    "RAY_": "Ray's settings, with the token by which its processes know each other",
    "STEADYTUNE_": "our own",
    "CUDA_": "which GPUs there are",
    "NVIDIA_": "as CUDA_",
    "NCCL_": "how GPUs talk to each other",
    "GLOO_": "how CPUs do",
    "OMP_": "threads",
    "MKL_": "threads",
    "KMP_": "threads",
    "OPENBLAS_": "threads",
    "TORCH": "torch's settings",
    "PYTORCH_": "as TORCH",
    "DS_": "DeepSpeed's settings",
    "HF_": "where models lie, and whether the hub is used",
    "HUGGINGFACE_": "as HF_",
    "TRANSFORMERS_": "as HF_",
    "TOKENIZERS_": "as HF_",
}
SECRET = re.compile(r"(TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH)", re.IGNORECASE)
HARMLESS = {"TOKENIZERS_PARALLELISM"}

STORAGE = {  # by the scheme of an address; a proxy's address may hold a password
    "s3": ("AWS_",),
    "gs": ("GOOGLE_", "CLOUDSDK_", "GCE_METADATA_"),
    "gcs": ("GOOGLE_", "CLOUDSDK_", "GCE_METADATA_"),
    "abfs": ("AZURE_",),
    "abfss": ("AZURE_",),
    "hdfs": ("HADOOP_", "JAVA_HOME", "CLASSPATH", "KRB5", "ARROW_LIBHDFS_DIR"),
}
HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def credentials(places: Collection[str], hub: bool) -> tuple[str, ...]:
    """Beginnings of the names that a run needs whose files lie at ``places`` (paths and addresses), and which reads
    from the hub if ``hub``."""
    schemes = {p.split("://")[0].lower() for p in places if "://" in p}
    needed = [name for scheme in schemes for name in STORAGE.get(scheme, ())]
    return (*needed, *(HUB if hub else ()), *(PROXIES if needed or hub else ()))


def passed_on(environment: Collection[str], needed: Collection[str] = ()) -> set[str]:
    """The names of ``environment`` that the processes of a local Ray get; ``needed`` as ``credentials`` gives it."""
    return {n for n in environment if n.startswith(tuple(needed)) or _is_listed(n)}


def _is_listed(name: str) -> bool:
    if name in NAMES or name in HARMLESS or name.startswith("RAY_"):
        return True
    return name.startswith(tuple(FAMILIES)) and not SECRET.search(name)


@contextmanager
def only_passed_on(needed: Collection[str] = ()) -> Iterator[None]:
    """While this lasts, ``os.environ`` holds what is passed on: processes that are started now inherit it."""
    names = passed_on(os.environ, needed)
    kept = {n: os.environ.pop(n) for n in list(os.environ) if n not in names}
    try:
        yield
    finally:
        os.environ.update(kept)
