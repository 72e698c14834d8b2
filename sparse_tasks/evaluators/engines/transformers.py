"""Hugging Face transformers, one prompt at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from sparse_tasks.core.errors import EngineError, UsageError, first_line, install, nearest
from sparse_tasks.core.records import JsonObject, Phase
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.engines.engine import (
    ENGINES,
    INSTEAD_OF,
    NOT_USED,
    OVERRIDE,
    Engine,
    EngineSettings,
    Output,
    Request,
)
from sparse_tasks.evaluators.environment import slow_on_cpu
from sparse_tasks.evaluators.models import Model

if TYPE_CHECKING:
    from sparse_tasks.attention.huggingface import SparseRun

_ARGUMENTS = ("device", "dtype", "attn_implementation", "impl", OVERRIDE)
_OF_RUNS = ("impl", OVERRIDE)  # which do not affect a loaded model
_OF_NO_EFFECT = ("_from_model_config", "transformers_version", "use_cache", "output_attentions", "output_hidden_states")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
IMPLEMENTATIONS: Final = ("auto", "triton", "torch")


class TransformersEngine(Engine):
    """``AutoModelForCausalLM.generate`` on token ids.

    ``--engine-arg`` takes ``device`` (default: cuda if there is one, else cpu), ``dtype`` (default: the checkpoint's;
    float32 on a processor without instructions for that), ``attn_implementation``, of sparse attention ``impl``: auto
    (kernels where there are any), triton or torch, and ``override_generation_config``, settings of decoding. Of a
    model's ``generation_config.json`` only the end tokens are used.
    """

    name = "transformers"
    runs_methods = True
    measures_sparsity = True
    compresses_contexts = True
    packages = ("torch", "transformers", "accelerate")

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise UsageError("engine", self.name, f"needs {package}; {install('transformers')}")
        for argument, value in settings.arguments.items():
            if argument not in _ARGUMENTS:
                raise UsageError("engine-arg", f"{argument}={value}", nearest(argument, _ARGUMENTS))
            if not isinstance(value, str) and argument != OVERRIDE:
                raise UsageError("engine-arg", f"{argument}={value}", "must be a name")
        if (impl := settings.arguments.get("impl", "auto")) not in IMPLEMENTATIONS:
            raise UsageError("engine-arg", f"impl={impl}", f"is unknown; choose from {', '.join(IMPLEMENTATIONS)}")
        self._model: Any = None
        self._details: JsonObject = {}

    def context(self) -> int | None:
        from transformers import AutoConfig, GenerationConfig

        self.decoding(vars(GenerationConfig()))
        model = self.settings.model
        try:
            config = AutoConfig.from_pretrained(model.source, revision=model.revision)
        except (ValueError, OSError) as error:
            raise UsageError("model", model.name, f"is refused by transformers: {first_line(error)}") from error
        if self.settings.attention.sparse:
            from sparse_tasks.attention.huggingface import check_config

            check_config(model.name, config, self.settings.attention)
        limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
        return limit

    def start(self, needed: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        model, arguments = self.settings.model, self._loads()[1]
        self._decoder = load_tokenizer(model.tokenizer, "none").backend
        device = arguments.pop("device", "cuda" if torch.cuda.is_available() else "cpu")
        try:
            options = {"dtype": "auto"} | arguments
            self._model = AutoModelForCausalLM.from_pretrained(model.source, revision=model.revision, **options)
            self._model.to(device).eval()
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"transformers cannot load {model.name}: {first_line(error)}") from error
        found: JsonObject = json.loads(self._model.generation_config.to_json_string())
        # ``generate`` uses it for unset options; only end tokens may come from there.
        self._model.generation_config = GenerationConfig(**{name: found.get(name) for name in _TOKENS})
        unheeded = {name: value for name, value in found.items() if name not in (*_TOKENS, *_OF_NO_EFFECT)}
        dtype, slow = str(self._model.dtype).removeprefix("torch."), ""
        if device == "cpu" and "dtype" not in arguments and slow_on_cpu(dtype):
            self._model.float()
            dtype, slow = "float32", dtype
        self._details = {"device": str(self._model.device), "dtype": dtype}
        self._details |= ({INSTEAD_OF: slow} if slow else {}) | ({NOT_USED: unheeded} if unheeded else {})

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        import torch

        config = self._model.generation_config
        sampling: JsonObject = {"do_sample": False}
        if self.settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": self.settings.temperature, "top_p": 1.0, "top_k": 0}
        sampling |= self.settings.arguments.get(OVERRIDE, {})
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        for request in requests:
            # Seed each prompt independently of earlier ones.
            torch.manual_seed(self.settings.seed)
            ids = torch.tensor([request.ids], device=self._model.device)
            clock = _Clock()
            try:
                with torch.inference_mode(), self._sparse(request.context) as run:
                    whole = self._model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        max_new_tokens=request.max_new_tokens,
                        pad_token_id=config.pad_token_id if config.pad_token_id is not None else ends[0],
                        streamer=clock,
                        **sampling,
                    )
            except RuntimeError as error:  # usually out of memory
                raise EngineError(f"transformers failed at {request.id}: {first_line(error)}") from error
            written = whole[0, ids.shape[1] :].tolist()
            yield Output(
                request.id,
                self._decoder.decode(written, skip_special_tokens=True),
                "stop" if written and written[-1] in ends else "length",
                len(request.ids),
                len(written),
                clock.first,
                clock.last,
                _measured(run),
                ids=written,
            )

    def _sparse(self, context: int | None) -> AbstractContextManager[SparseRun | None]:
        if not self.settings.attention.sparse:
            return nullcontext()
        from sparse_tasks.attention.huggingface import sparse_attention

        impl = self.settings.arguments.get("impl", "auto")
        return sparse_attention(self._model, self.settings.attention, context=context, impl=impl)

    def take_over(self, running: Engine, needed: int) -> bool:
        if not isinstance(running, TransformersEngine) or running._loads() != self._loads():
            return False
        self._model, self._decoder, self._details = running._model, running._decoder, running._details
        running._model = None
        return self._model is not None

    def _loads(self) -> tuple[Model, JsonObject]:
        """Settings on which ``start`` depends."""
        arguments = self.settings.arguments
        return self.settings.model, {key: value for key, value in arguments.items() if key not in _OF_RUNS}

    def version(self) -> str | None:
        import transformers

        version: str = transformers.__version__
        return version

    def details(self) -> JsonObject:
        return self._details

    def stop(self) -> None:
        self._model = None


def _measured(run: SparseRun | None) -> dict[Phase, float] | None:
    phases: tuple[Phase, ...] = () if run is None else ("prefill", "decode")
    densities = {} if run is None else {phase: run.density(phase) for phase in phases}
    return {
        phase: max(0.0, 1 - density.computed) for phase, density in densities.items() if density is not None
    } or None


class _Clock:
    """Records the arrival times of tokens (the prompt first)."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._calls = 0
        self.first: float | None = None
        self.last: float | None = None

    def put(self, value: object) -> None:
        self._calls += 1
        self.last = time.perf_counter() - self._began
        if self._calls == 2:
            self.first = self.last

    def end(self) -> None:
        """Do nothing."""


ENGINES.register(TransformersEngine.name, TransformersEngine)
