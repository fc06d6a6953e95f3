"""The error of a job that stops, with ROI, model and stage."""

from __future__ import annotations

from ...errors import RSEmbedError
from ...runs.run import Run


class StageError(RSEmbedError):
    """A job that stops; the text names ROI, model and stage. Everything it finished is kept."""


def make_stage_error(stage: str, roi: str, model: str, error: BaseException) -> StageError:
    """The error of a job that stops at its first failure (``continue_on_error=False``)."""
    what = str(error) if isinstance(error, RSEmbedError) else f"{type(error).__name__}: {error}"
    return StageError(f"{stage} failed for ROI {roi!r}, model {model}: {what}")


def format_readers(run: Run, source_id: str) -> str:
    """The models that read a source, for messages."""
    return ", ".join(u.label for u in run.plan.units if u.source == source_id)
