"""Tokenizers for models that vLLM does not start without: their words do not matter."""

from pathlib import Path

from tests.support.models.family import VOCABULARY


def whisper(folder: Path) -> None:
    """Save in `folder` what turns text and sound into a Whisper model's input."""
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    words = {f"w{n}": n for n in range(VOCABULARY - 1)} | {"<|endoftext|>": VOCABULARY - 1}
    tokenizer = WhisperTokenizer(vocab=words, merges=[])
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
