"""Faults inside the processes of a run. With this folder on PYTHONPATH, RS_EMBED_FAULTS (JSON)
lists which:

slow      {step or "*": seconds}: every rename of that step's jobs takes so long, so that a kill
can meet it in the middle provider  {"names": [...] or null for all, "kind": "passing" | "final" |
"bug", "times": n or null for ever, "state": folder} memory    {"above": n}: a forward pass of more
than n images finds no memory address   bytes: the embed jobs may not have more memory than this
(RLIMIT_AS)
"""

import json
import os
import sys

_faults = json.loads(os.environ.get("RS_EMBED_FAULTS") or "{}")
_argv = sys.orig_argv
_step = next((_argv[i + 2] for i, a in enumerate(_argv[:-2]) if a == "-m" and _argv[i + 1] == "rs_embed"), "")


def _slow(seconds):
    import time

    replace = os.replace

    def slowly(source, target, **keywords):
        time.sleep(seconds)
        replace(source, target, **keywords)

    os.replace = slowly


def _provider(names, kind, times, state):
    from rs_embed.errors import ProviderError
    from rs_embed.providers import sample

    fetch = sample.SampleProvider.fetch

    def failing(self, source, bands, roi, grid):
        if names is None or roi.name in names:
            for n in range(times) if times is not None else [None]:
                try:  # counted over all processes: one file a failure
                    if n is not None:
                        os.close(os.open(f"{state}/{roi.name}-{n}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                if kind == "bug":
                    raise KeyError("a bug of the provider")
                raise ProviderError("the service refuses", retryable=kind == "passing")
        return fetch(self, source, bands, roi, grid)

    sample.SampleProvider.fetch = failing


def _memory(above):
    from rs_embed.models.mosaiks import ADAPTER

    forward = type(ADAPTER).forward

    def scarce(self, network, tensors, options):
        if len(next(iter(tensors.values()))) > above:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 68719476736 bytes")
        return forward(self, network, tensors, options)

    type(ADAPTER).forward = scarce


if _step and _faults:
    if _seconds := _faults.get("slow", {}).get(_step, _faults.get("slow", {}).get("*")):
        _slow(_seconds)
    if _step == "fetch" and "provider" in _faults:
        _provider(**_faults["provider"])
    if _step == "embed" and "memory" in _faults:
        _memory(**_faults["memory"])
