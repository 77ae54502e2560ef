"""Prompts as numbers, by the tokenizer of a model: always as many as its text encoder takes."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor


class Tokens:
    """`length`: tokens of a prompt, which is cut or filled up with `filler`. A copy of the tokenizer is this object's own."""

    def __init__(self, tokenizer: Tokenizer, *, length: int, filler: int) -> None:
        self._tokenizer = tokenizer
        self.length = length
        self.filler = filler
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=filler)

    @classmethod
    def of(cls, tokenizer: Any) -> Tokens:  # noqa: ANN401  # CLIPTokenizer, a class without types
        """Those of a tokenizer of transformers. Raises ValueError if it is one that is written in Python."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or tokenizer.pad_token_id is None:
            raise ValueError("its tokenizer is not one of the library tokenizers")
        return cls.restored(backend.to_str(), length=tokenizer.model_max_length, filler=tokenizer.pad_token_id)

    @classmethod
    def restored(cls, text: str, *, length: int, filler: int) -> Tokens:
        """Those that were `saved`."""
        return cls(Tokenizer.from_str(text), length=length, filler=filler)

    def saved(self) -> str:
        """The tokenizer as JSON."""
        text: str = self._tokenizer.to_str()
        return text

    def __call__(self, prompt: str) -> Tensor:
        """(1, T) int64."""
        return torch.tensor([self._tokenizer.encode(prompt).ids])
