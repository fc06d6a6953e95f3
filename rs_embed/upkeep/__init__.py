"""Maintenance of a work folder, over plans, receipts and stores, beside live runs.

Commands:

- ``status``: the runs and stores of a work folder, and what ``prune`` would free
- ``verify``: reads everything and reports damage (``problems``: the report; ``set_aside``:
  prepares the repair)
- ``prune``: removes what no run refers to
- ``pack``: moves loose objects into packs, and back
- ``stop``: stops a live run with its jobs
- ``free_space``: frees space in the store after success
- ``summaries``: the text and the JSON values that the commands print

Shared parts:

- ``work_folder``: a work folder, its run folders and the stores that they use
- ``contents``: the contents of a store
- ``references``: the objects that runs refer to
- ``freeable``: selects and removes objects that finished exports do not need
- ``exported_chips``: records chips of an export before they are freed
"""
