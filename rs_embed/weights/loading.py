"""Reads weights from a file without running code, and fills a network with them.

The tensors are found under any published prefix or wrapper, and must match the network exactly.
They are mapped from the file, not copied, so concurrent jobs with one file share its pages.
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

#: Keys under which training code stores a network in a checkpoint, by priority: of a teacher and a
#: student, the teacher is the one to use (DINO, data2vec).
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "teacher", "student", "encoder", "backbone")
#: Prefixes that wrappers of torch and Lightning add to all names; up to two of them.
_GENERIC = ("", "module.", "_orig_mod.", "model.")
_ALLOWED = "allowed: a complete file of this model and variant, or model_config={'weights': null} for the published one"
#: Number of tensors that an error names.
_MAX_NAMES = 5


def fill_network(
    network: nn.Module, weights: Checkpoint | None, rename: Callable[[str], str | None], prefixes: Sequence[str]
) -> dict:
    """Fill a network on the meta device with its weights.

    Args:
        network: every parameter and persistent buffer is filled, floats as float32.
        rename: maps the name of a published tensor, without prefix, to the network's name; None if
            it is not used.
        prefixes: possible prefixes of the published names. The prefix that matches most of the
            network is used, alone or after a generic one (``module.``, ``model.``); tensors
            without it do not belong to this network.

    Returns:
        The metadata of the weights for the manifest (:class:`Checkpoint`).

    Raises:
        ModelError: the file cannot be read, or does not match exactly; the message names the file
            and the tensors.
    """
    if weights is None:
        raise ModelError(
            "weights: none are published for this model; allowed: model_config={'weights': '<path of a file>'}"
        )
    wanted = network.state_dict()
    if weights.path is None:
        state = {name: _random_tensor(name, tensor, weights.seed) for name, tensor in wanted.items()}
    else:
        state = _match_tensors(weights.path, wanted, rename, prefixes)
    network.load_state_dict(state, assign=True)
    return dict(weights.metadata)


def _random_tensor(name: str, like: Tensor, seed: int) -> Tensor:
    """Small random numbers, around 1 for the weights of norms; equal on every platform."""
    import numpy as np
    import torch

    key = [seed, zlib.crc32(name.encode())]
    values = np.random.Generator(np.random.PCG64(key)).standard_normal(like.shape, dtype=np.float32)
    is_norm_weight = "norm" in name and name.endswith("weight")
    return torch.from_numpy(values * np.float32(0.02) + np.float32(is_norm_weight))


def read_tensors(path: Path) -> Mapping[str, Any]:
    """The content of a weights file: tensors by name, possibly in wrappers.

    The first bytes decide whether it is read as safetensors or with torch. Code in files is never
    run. Tensors are mapped from the file, except in torch's format before 1.6.

    Raises:
        ModelError: it is not a weights file, is damaged, or contains objects that only code can
            create; the message names the file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        content = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path, mmap=head[:4] == b"PK\x03\x04")
    except OSError as error:
        raise ModelError(f"weights file {path}: cannot be read ({error.strerror or error}); {_ALLOWED}") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"weights file {path}: contains a {type(content).__name__} and no tensors by name; {_ALLOWED}")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict; this reads no data
    except SafetensorError as error:
        raise ModelError(f"weights file {path}: is truncated or damaged ({error}); {_ALLOWED}") from None


def _read_torch(path: Path, *, mmap: bool) -> Any:
    import argparse

    import torch

    # the arguments of a training script, often stored beside the tensors: a class without methods
    # that run code
    plain = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with warnings.catch_warnings(), plain:
            warnings.simplefilter("ignore")
            return torch.load(os.fspath(path), map_location="cpu", mmap=mmap, weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the reader raises any type of error for bytes that are not a pickle
        code = re.search(r"GLOBAL (\S+)|(TorchScript) archive", str(error))
        if code:
            raise ModelError(
                f"weights file {path}: contains {code[1] or 'a TorchScript program'}, and code in files is never run; allowed: a "
                "file of tensors alone (load this one where you trust it, and save its state_dict with "
                "safetensors.torch.save_file), or the published file"
            ) from None
        raise ModelError(
            f"weights file {path}: is truncated, damaged, or neither of safetensors nor of torch.save; {_ALLOWED}"
        ) from None


def _match_tensors(
    path: Path, wanted: Mapping[str, Tensor], rename: Callable[[str], str | None], prefixes: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of a file that a network needs, by the network's names."""
    generic = sorted({a + b for a, b in itertools.product(_GENERIC, repeat=2)}, key=lambda g: (len(g), g))
    full = dict.fromkeys(g + p for g in generic for p in (*prefixes, ""))
    trees = list(_list_wrapped(read_tensors(path)))
    candidates = [_Candidate(tree, _rename_tensors(tree, prefix, rename)) for tree in trees for prefix in full]
    best = max(candidates, key=lambda c: len(wanted.keys() & set(c.names.values())))  # the first of equal ones
    faults = _describe_mismatch(best, wanted)
    state = {}
    if not faults:
        state = {new: best.tree[name].detach().to(wanted[new].dtype) for name, new in best.names.items()}
        bad = [name for name, new in best.names.items() if not _is_finite(state[new])]
        faults = [f"has {len(bad)} with NaN or infinity {_format_names(bad)}"] if bad else []
    if faults:
        raise ModelError(f"weights file {path}: {', '.join(faults)}; {_ALLOWED}")
    return state


@dataclass(frozen=True)
class _Candidate:
    """A mapping of tensors, and for one prefix: published name to the network's name."""

    tree: Mapping[str, Tensor]
    names: dict[str, str]


def _list_wrapped(tree: Mapping) -> Iterator[Mapping]:
    """A mapping, and the mappings in it under the keys of :data:`_WRAPPERS`."""
    yield tree
    for word in _WRAPPERS:
        if isinstance(tree.get(word), Mapping):
            yield from _list_wrapped(tree[word])


def _rename_tensors(tree: Mapping, prefix: str, rename: Callable[[str], str | None]) -> dict[str, str]:
    """The network's names of the tensors with a prefix, by their published names."""
    import torch

    tensors = [
        n for n, t in tree.items() if isinstance(n, str) and n.startswith(prefix) and isinstance(t, torch.Tensor)
    ]
    renamed = ((name, rename(name.removeprefix(prefix))) for name in tensors)
    return {name: new for name, new in renamed if new is not None}


def _describe_mismatch(candidate: _Candidate, wanted: Mapping[str, Tensor]) -> list[str]:
    """How names, shapes and dtypes of a candidate differ from the network's; empty if equal."""
    found = collections.Counter(candidate.names.values())
    known = {name: new for name, new in candidate.names.items() if new in wanted}
    if not known:
        others = [name for name in candidate.tree if isinstance(name, str)]
        return [
            f"has none of the {len(wanted)} tensors that this model uses {_format_names(list(wanted))}, "
            f"but {len(others)} of other names {_format_names(others)}"
        ]
    faults, shapes, kinds = [], [], []
    for name, new in known.items():
        tensor, like = candidate.tree[name], wanted[new]
        if tensor.shape != like.shape:
            shapes.append(f"{name} is {tuple(tensor.shape)}, wanted {tuple(like.shape)}")
        if tensor.is_floating_point() != like.is_floating_point():
            kinds.append(f"{name} is {tensor.dtype}, wanted {like.dtype}".replace("torch.", ""))
    if missing := [name for name in wanted if name not in found]:
        faults.append(f"lacks {len(missing)} of {len(wanted)} tensors {_format_names(missing)}")
    if unknown := [name for name in candidate.names if name not in known]:
        faults.append(f"has {len(unknown)} that this variant does not have {_format_names(unknown)}")
    if twice := [name for name in wanted if found[name] > 1]:
        faults.append(f"has {len(twice)} more than once {_format_names(twice)}")
    if shapes:
        faults.append(f"has {len(shapes)} of another shape {_format_names(shapes)}")
    if kinds:
        faults.append(f"has {len(kinds)} of another kind {_format_names(kinds)}")
    return faults


def _format_names(items: Sequence[str]) -> str:
    """The first names, in parentheses."""
    return f"({', '.join(items[:_MAX_NAMES])}{', ...' if len(items) > _MAX_NAMES else ''})"


def _is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has no NaN or infinity.

    They propagate to the extremes, which need no copy of a mapped tensor.
    """
    return tensor.numel() == 0 or all(math.isfinite(float(v)) for v in tensor.aminmax())
