"""The answers to all questions about one tile, filled batch by batch, then turned into layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomap import label
from geomap.label import Question
from geomap.run.finished import Layers
from geomap.run.request import CLEAR_MONTHS


class Sheet:
    """Answers to the questions over (rows, columns), nodata until filled."""

    def __init__(self, questions: Sequence[Question], shape: tuple[int, int]) -> None:
        self._questions, self._shape = questions, shape
        self._answers = {q.legend.name: label.blank(q.legend, (shape[0] * shape[1],)) for q in questions}

    def fill(self, where: NDArray[np.intp], embeddings: Tensor) -> None:
        """Label the pixels at flat indices (n,) by their (n, D) unit embeddings."""
        for question, new in zip(self._questions, label.answers(self._questions, embeddings), strict=True):
            old = self._answers[question.legend.name]
            old.value[where] = new.value
            if old.confidence is not None and new.confidence is not None:
                old.confidence[where] = new.confidence

    def keep(self, where: NDArray[np.intp], layers: Layers) -> None:
        """Take the answers at flat indices (n,) from (y, x) layers of an earlier run."""
        for name, answer in self._answers.items():
            answer.value[where] = layers[name].ravel()[where]
            if answer.confidence is not None:
                answer.confidence[where] = layers[f"{name}_confidence"].ravel()[where]

    def layers(self, within: tuple[str, int] | None, clear_months: NDArray[np.uint8]) -> Layers:
        """(y, x) pixels by layer stem; where the legend of `within` has another class, the other legends are nodata."""
        if within is not None:
            self._restrict(*within)
        layers: dict[str, NDArray[Any]] = {CLEAR_MONTHS: clear_months}
        for name, answer in self._answers.items():
            layers[name] = answer.value.reshape(self._shape)
            if answer.confidence is not None:
                layers[f"{name}_confidence"] = answer.confidence.reshape(self._shape)
        return layers

    def _restrict(self, base: str, wanted: int) -> None:
        outside = self._answers[base].value != wanted
        for question in self._questions:
            name = question.legend.name
            if name != base:
                answer, empty = self._answers[name], label.blank(question.legend, (int(outside.sum()),))
                answer.value[outside] = empty.value
                if answer.confidence is not None and empty.confidence is not None:
                    answer.confidence[outside] = empty.confidence
