"""Weights into a network: read safely, found under whatever prefix or wrapper they were published, matched strictly.

Tensors are mapped from the file, not copied: concurrent jobs with one file share its pages.
"""

from __future__ import annotations

import collections
import itertools
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .checkpoints import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Keys under which training code files a network in a checkpoint, the most meant first: of a teacher and a student the
#: teacher is the one to use (DINO, data2vec).
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "teacher", "student", "encoder", "backbone")
#: What wrappers of torch and Lightning put before all names; up to two of them.
_GENERIC = ("", "module.", "_orig_mod.", "model.")
_ALLOWED = "allowed: a complete file of this model and variant, or model_config={'weights': null} for the published one"
#: Tensors that an error names.
_NAMED = 5


def fill(
    network: nn.Module, weights: Checkpoint | None, rename: Callable[[str], str | None], prefixes: Sequence[str]
) -> dict:
    """Give a network on the meta device its weights; returns what the manifest says of them.

    Args:
        network: every parameter and persistent buffer is filled, floats as float32.
        rename: the network's name of a published tensor, without prefix; None for one that is not used.
        prefixes: what may stand before the published names. The one with which most of the network is found counts, alone
            or after a generic one (``module.``, ``model.``); tensors that do not have it are not this network's.

    Raises:
        ModelError: the file cannot be read, or does not fit exactly; it names the file and the tensors.
    """
    if weights is None:
        raise ModelError(
            "weights: there are none for this model; allowed: model_config={'weights': '<path of a file>'}"
        )
    wanted = network.state_dict()
    if weights.path is None:
        state = {name: _random(name, tensor, weights.seed) for name, tensor in wanted.items()}
    else:
        state = _matched(weights.path, wanted, rename, prefixes)
    network.load_state_dict(state, assign=True)
    return dict(weights.said)


def _random(name: str, like: Tensor, seed: int) -> Tensor:
    """Small random numbers, around 1 for the weights of norms; the same on every platform."""
    import numpy as np
    import torch

    key = [seed, zlib.crc32(name.encode())]
    values = np.random.Generator(np.random.PCG64(key)).standard_normal(like.shape, dtype=np.float32)
    one = "norm" in name and name.endswith("weight")
    return torch.from_numpy(values * np.float32(0.02) + np.float32(one))


def read(path: Path) -> Mapping[str, Any]:
    """The content of a weights file, safetensors or torch's, by its first bytes: tensors by name, perhaps in wrappers.

    Code in files is never run. Tensors are mapped from the file, except of torch's format before 1.6.

    Raises:
        ModelError: it is no such file, is damaged, or holds objects that only code could make; it names the file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        content = _safetensors(path) if head[8:9] == b"{" else _torch(path, mmap=head[:4] == b"PK\x03\x04")
    except OSError as error:
        raise ModelError(f"weights file {path}: cannot be read ({error.strerror or error}); {_ALLOWED}") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"weights file {path}: holds a {type(content).__name__} and no tensors by name; {_ALLOWED}")
    return content


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict; nothing is read yet
    except SafetensorError as error:
        raise ModelError(f"weights file {path}: is truncated or damaged ({error}); {_ALLOWED}") from None


def _torch(path: Path, *, mmap: bool) -> Any:
    import argparse

    import torch

    # the arguments of a training script, which many put beside the tensors: an object without behaviour of its own
    plain = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with warnings.catch_warnings(), plain:
            warnings.simplefilter("ignore")
            return torch.load(os.fspath(path), map_location="cpu", mmap=mmap, weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # bytes that are no pickle make the reader fail in any way
        code = re.search(r"GLOBAL (\S+)|(TorchScript) archive", str(error))
        if code:
            raise ModelError(
                f"weights file {path}: holds {code[1] or 'a TorchScript program'}, and code in files is never run; allowed: a "
                "file of tensors alone (load this one where you trust it, and save its state_dict with "
                "safetensors.torch.save_file), or the published file"
            ) from None
        raise ModelError(
            f"weights file {path}: is truncated, damaged, or neither of safetensors nor of torch.save; {_ALLOWED}"
        ) from None


def _matched(
    path: Path, wanted: Mapping[str, Tensor], rename: Callable[[str], str | None], prefixes: Sequence[str]
) -> dict[str, Tensor]:
    """The wanted tensors of a file, by the network's names."""
    generic = sorted({a + b for a, b in itertools.product(_GENERIC, repeat=2)}, key=lambda g: (len(g), g))
    before = dict.fromkeys(g + p for g in generic for p in (*prefixes, ""))
    choices = [_Choice(tree, _named(tree, prefix, rename)) for tree in _unwrapped(read(path)) for prefix in before]
    best = max(choices, key=lambda choice: len(wanted.keys() & set(choice.names.values())))  # of equals the first
    faults = _faults(best, wanted)
    state = {}
    if not faults:
        state = {own: best.tree[name].detach().to(wanted[own].dtype) for name, own in best.names.items()}
        bad = [name for name, own in best.names.items() if not _finite(state[own])]
        faults = [f"has {len(bad)} with NaN or infinity {_some(bad)}"] if bad else []
    if faults:
        raise ModelError(f"weights file {path}: {', '.join(faults)}; {_ALLOWED}")
    return state


@dataclass(frozen=True)
class _Choice:
    """A mapping of tensors, and the names in it that a prefix makes the network's: published name to own."""

    tree: Mapping[str, Tensor]
    names: dict[str, str]


def _unwrapped(tree: Mapping) -> Iterator[Mapping]:
    """A mapping and those in it that training code files networks under."""
    yield tree
    for word in _WRAPPERS:
        if isinstance(tree.get(word), Mapping):
            yield from _unwrapped(tree[word])


def _named(tree: Mapping, prefix: str, rename: Callable[[str], str | None]) -> dict[str, str]:
    import torch

    tensors = [
        n for n, t in tree.items() if isinstance(n, str) and n.startswith(prefix) and isinstance(t, torch.Tensor)
    ]
    owns = ((name, rename(name.removeprefix(prefix))) for name in tensors)
    return {name: own for name, own in owns if own is not None}


def _faults(choice: _Choice, wanted: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from being exactly the wanted ones; nothing of their values."""
    found = collections.Counter(choice.names.values())
    fitting = {name: own for name, own in choice.names.items() if own in wanted}
    if not fitting:
        others = [name for name in choice.tree if isinstance(name, str)]
        return [
            f"has none of the {len(wanted)} tensors that this model uses {_some(list(wanted))}, but {len(others)} of other names {_some(others)}"
        ]
    faults, shapes, kinds = [], [], []
    for name, own in fitting.items():
        tensor, like = choice.tree[name], wanted[own]
        if tensor.shape != like.shape:
            shapes.append(f"{name} is {tuple(tensor.shape)}, wanted {tuple(like.shape)}")
        if tensor.is_floating_point() != like.is_floating_point():
            kinds.append(f"{name} is {tensor.dtype}, wanted {like.dtype}".replace("torch.", ""))
    if missing := [own for own in wanted if own not in found]:
        faults.append(f"lacks {len(missing)} of {len(wanted)} tensors {_some(missing)}")
    if unknown := [name for name in choice.names if name not in fitting]:
        faults.append(f"has {len(unknown)} that this variant does not have {_some(unknown)}")
    if twice := [own for own in wanted if found[own] > 1]:
        faults.append(f"has {len(twice)} more than once {_some(twice)}")
    if shapes:
        faults.append(f"has {len(shapes)} of another shape {_some(shapes)}")
    if kinds:
        faults.append(f"has {len(kinds)} of another kind {_some(kinds)}")
    return faults


def _some(items: Sequence[str]) -> str:
    """The first few, in brackets."""
    return f"({', '.join(items[:_NAMED])}{', ...' if len(items) > _NAMED else ''})"


def _finite(tensor: Tensor) -> bool:
    """No NaN or infinity: they come through to the extremes, which need no copy of a mapped tensor."""
    return tensor.numel() == 0 or all(math.isfinite(float(v)) for v in tensor.aminmax())
