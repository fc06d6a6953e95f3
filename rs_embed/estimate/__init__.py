"""The estimate of what the remaining jobs of a run cost. Every number is a count, an upper bound
or an estimate; docs/scaling.md has the formulas.

- ``estimator``: the function ``estimate`` and its result
- ``costs``: dataclasses of the costs of sources, models and runs
- ``summary``: an estimate as text
- ``missing``: the objects that remaining jobs have to make
- ``disk``: bytes and files of a run
- ``speeds``: computing rates of devices
- ``measured``: rates from earlier jobs of the work folder
"""

from .costs import ModelCost, SourceCost
from .estimator import Estimate, estimate

__all__ = ["Estimate", "ModelCost", "SourceCost", "estimate"]
