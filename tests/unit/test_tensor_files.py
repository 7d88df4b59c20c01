"""Files of tensors: the same bits for the same content, and readable by the library."""

from pathlib import Path

import torch
from safetensors import safe_open

from diffusability.artifacts.tensors import write_tensors


def test_words_and_tensors_are_read_back_as_written_and_always_in_one_order(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(5), "a": torch.rand(2, 3), "empty": torch.zeros(0, 2)}
    words = {f"key {k} é": f'"{k}"' for k in range(8)}
    file = tmp_path / "t.safetensors"
    versions = set()
    for _ in range(8):  # the library alone writes eight words in eight orders
        write_tensors(file, tensors, dict(reversed(words.items())))
        versions.add(file.read_bytes())
    assert len(versions) == 1
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == words
        assert set(opened.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(opened.get_tensor(name), tensor)
