"""What a model was called with, and what it returned."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, final

from torch import Tensor, nn

# What a model is told of the targets, or of what to return, beside the columns that the Trainer calls labels.
_NOT_FOR_TEACHERS = ("labels", "label", "label_ids", "shift_labels", "num_items_in_batch", "return_loss")


@final
@dataclass(slots=True, eq=False)
class ModelCall:
    """The one call of a model within a ``compute_loss``, whoever wrote that.

    It is watched, not asked for: so it holds what the model really took, whatever columns the data have.
    """

    arguments: tuple[Any, ...] = ()
    """Those that were passed by position."""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    """Those that were passed by name."""
    outputs: Any = None
    """What the model returned."""
    count: int = 0
    """How often the model was called."""

    @classmethod
    @contextmanager
    def watching(cls, model: nn.Module) -> Iterator[Self]:
        """Watch a model's calls for the length of a block.

        Args:
            model: What is called, with all that it is wrapped in: gradients go through the outputs of the
                outermost.
        """
        call = cls()

        def note(
            module: nn.Module,  # noqa: ARG001  # the signature of a hook
            arguments: tuple[Any, ...],
            keywords: dict[str, Any],
            outputs: Any,
        ) -> None:
            call.arguments, call.keywords, call.outputs = arguments, keywords, outputs
            call.count += 1

        handle = model.register_forward_hook(note, with_kwargs=True)
        try:
            yield call
        finally:
            handle.remove()

    def check(self) -> None:
        """Refuse a loss that is not made from one call.

        Raises:
            ValueError: If the model was called never, or more than once.
        """
        if self.count != 1:
            raise ValueError(
                f"compute_loss must call the model once, got {self.count} calls: it is not clear which "
                "outputs to compare. Use codistill.Codistiller in your own compute_loss."
            )

    def teacher_inputs(self, model: nn.Module, label_names: list[str]) -> dict[str, Any]:
        """Return what teachers are called with: the same without labels.

        For an encoder and decoder that was given labels only, the decoder's inputs are made from them as the
        model does: a teacher sees the targets before a position, never that position's.

        Args:
            model: The student, unwrapped.
            label_names: What else the Trainer takes for labels.

        Raises:
            TypeError: If the model takes any number of arguments by position, which then have no names.
            ValueError: If it does not tell how it makes its decoder's inputs.
        """
        named = self._by_name(model)
        hidden = {*_NOT_FOR_TEACHERS, *label_names}
        inputs = {name: value for name, value in named.items() if name not in hidden}
        config = getattr(model, "config", None)
        if not getattr(config, "is_encoder_decoder", False) or named.get("labels") is None:
            return inputs
        if any(inputs.get(name) is not None for name in ("decoder_input_ids", "decoder_inputs_embeds")):
            return inputs
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        if shift is None:
            raise ValueError(
                "The batch must hold decoder_input_ids for the teachers, which get no labels, got "
                f"{', '.join(sorted(named))}, and {type(model).__name__} has no "
                "prepare_decoder_input_ids_from_labels. Add decoder_input_ids in the data collator."
            )
        return {**inputs, "decoder_input_ids": shift(labels=named["labels"])}

    def _by_name(self, model: nn.Module) -> dict[str, Any]:
        if not self.arguments:
            return dict(self.keywords)
        # The class's own: Accelerate puts another forward on the instance.
        signature = inspect.signature(type(model).forward)
        bound = signature.bind_partial(model, *self.arguments, **self.keywords)
        own, *_ = signature.parameters
        named: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                raise TypeError(
                    f"compute_loss must call {type(model).__name__} by name, got {len(value)} arguments "
                    "without one: labels cannot be told from inputs. Call model(**inputs)."
                )
            if kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            elif name != own:
                named[name] = value
        return named


def logits_of(outputs: Any) -> Tensor:
    """Return ``outputs.logits``, the same for a student and its teachers.

    Raises:
        TypeError: If there are none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(outputs, Mapping):
        got = f"{type(outputs).__name__} with {', '.join(map(str, outputs))}"
    else:
        got = type(outputs).__name__
    raise TypeError(
        f"The model must return logits as a tensor under that name, got {got}. Pass outputs_to_logits=..., a "
        "function of what it returns (a tuple begins with the loss where there are labels, so keep "
        "return_dict=True)."
    )
