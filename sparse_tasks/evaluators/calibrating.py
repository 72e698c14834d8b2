"""Calibrations of methods, measured on the samples of a data set or published."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.files import sha256_of
from sparse_tasks.evaluators.engines.engine import EngineSettings
from sparse_tasks.evaluators.engines.transformers import TransformersEngine
from sparse_tasks.evaluators.inspecting import answer
from sparse_tasks.evaluators.models import find_model
from sparse_tasks.evaluators.predict import Progress, RunRequest

if TYPE_CHECKING:
    from sparse_tasks.attention.calibration import Calibration
    from sparse_tasks.attention.huggingface import SparseRun
    from sparse_tasks.attention.measuring import Measuring


class _Measuring(TransformersEngine):
    """Reads prompts under dense attention, and lets a method measure them."""

    def __init__(self, settings: EngineSettings, method: CalibratedMethod) -> None:
        super().__init__(settings)
        self._method = method
        self.run: Measuring | None = None

    def _sparse(self, context: int | None) -> AbstractContextManager[SparseRun | None]:
        from sparse_tasks.attention.huggingface import attended_by
        from sparse_tasks.attention.measuring import Measuring

        if self.run is None:
            text, impl = self._model.config.get_text_config(), self.settings.arguments.get("impl", "auto")
            self.run = Measuring(self._method, text, impl)
        return attended_by(self._model, self.run)


def calibrate(request: RunRequest, progress: Progress) -> Calibration:
    """Measure a model for a method, in ``transformers``, on the prompts of a data set under dense attention.

    Args:
        request: Settings; its attention names the method.
        progress: Receiver of progress.

    Raises:
        UsageError: The method takes no calibration, or a setting does not fit.
        EngineError: The model failed.
    """
    from sparse_tasks.attention.calibration import Calibration, fingerprint

    method = calibrated_method(request.attention or Attention.DENSE)
    request = replace(request, attention=Attention.DENSE)
    engine = _Measuring(request.settings(), method)
    answer(engine, request, 0, progress)
    run, model = engine.run, engine.settings.model
    if run is None:
        raise UsageError("data", request.dataset.name, "has no prompt that was read, so nothing was measured")
    data = f"{Path(request.dataset.name).name}, {request.dataset.sha256[:12]}"
    source = f"{run.prompts:,} {'prompt' if run.prompts == 1 else 'prompts'} ({run.tokens:,} tokens) of {data}"
    of_model = fingerprint(model.source, model.revision)
    return Calibration(method.calibrated_as, method.version, of_model, source, run.tensors())


def take_published(attention: Attention, name: str, path: Path) -> Calibration:
    """A calibration from a file that a method's authors published for a model.

    Args:
        attention: Names the method.
        name: The model, whose weights are available as files.
        path: The file.

    Raises:
        UsageError: The method takes no such file, or it does not fit the model, whose sizes have to be known.
        BadFileError: It cannot be read.
    """
    from sparse_tasks.attention.calibration import Calibration, fingerprint

    method, model = calibrated_method(attention), find_model(name)
    if model.shape is None:
        raise UsageError("model", name, "has unknown sizes, so the file cannot be checked; "
                         "measure the model on prompts, with --data")  # fmt: skip
    tensors = method.published(path, model.shape)
    # Only the folder names of the authors' files say which model they are for.
    source = f"{'/'.join(path.parts[-3:])}, {sha256_of(path)[:12]}, as it was published"
    of_model = fingerprint(model.source, model.revision)
    return Calibration(method.calibrated_as, method.version, of_model, source, tensors)


def calibrated_method(attention: Attention) -> CalibratedMethod:
    """The method that an attention names; the first of those that share a calibration, since they measure the same.

    Raises:
        UsageError: It takes no calibration.
    """
    methods = [method for method in attention.methods if isinstance(method, CalibratedMethod)]
    if len(methods) < len(attention.methods) or len({method.calibrated_as for method in methods}) != 1:
        raise UsageError("method", attention.method, "takes no calibration; sparse-tasks attention list --verbose says "
                         "which do (calibration)")  # fmt: skip
    return methods[0]
