"""Weights of models: where they are, whether they are intact, and how they get into a network.

- ``checkpoints``: locates the weights of a model request and checks their digest; the module to
  start with.
- ``hub``: gets one file of the Hugging Face hub, from its cache or by a download.
- ``loading``: reads tensors from a file and fills a network with them.
"""
