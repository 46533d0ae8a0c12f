"""Holds what a user asks of a prediction: `PredictionRequest`.

Owns: the arguments that `autoseg.predict_files`, `autoseg.predict` and `--dry-run` share, and the loading of the model.
Does not own: the predictions (`predict.py`, `predict_array.py`, `dry_run.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.inference.modality import find_modality_number
from autoseg.inference.model_loading import load_predictor, with_settings
from autoseg.inference.predictor import Predictor
from autoseg.network.weights.model_file import BuildNetwork


@dataclass(frozen=True)
class PredictionRequest:
    """The model and its settings.

    Attributes:
        model: A model file, a run folder, or a predictor that is loaded already.
        device: auto, cpu or cuda.
        organs: The names of the organs to find; none means all.
        new_organs: Descriptions by name of organs that the model was not trained on; an empty one uses the built-in
            description.
        fold: The fold whose model of a run folder is used; None uses the one trained on all cases, or else the average.
        settings: Changes of the plan's inference part, such as "inference.window_overlap=0.25".
        modality: The modality of all scans, for a model of several; None finds it by intensities.
        build_network: The function that built the model's network, if it was not autoseg's own.
    """

    model: Path | str | Predictor
    device: str = "auto"
    organs: Sequence[str] | str = ()
    new_organs: Mapping[str, str] | None = None
    fold: str | int | None = None
    settings: Sequence[str] | str = ()
    modality: str | None = None
    build_network: BuildNetwork | None = None

    def load_predictor(self) -> Predictor:
        """Load the model, or take the predictor, and set it up.

        Raises:
            UsageError: An argument does not fit the model.
            CheckpointError: The model is missing or damaged, or needs a `build_network`.
        """
        organs, settings = _as_list(self.organs), _as_list(self.settings)
        if isinstance(self.model, Predictor):
            if organs:
                raise UsageError("organs: this predictor was loaded for certain organs. Load it with these organs.")
            predictor = self.model
            if self.modality is not None:
                number = find_modality_number(predictor.plans.data, self.modality)
                predictor = replace(predictor, modality=number)
        else:
            predictor = load_predictor(
                self.model,
                organs=organs,
                device=self.device,
                fold=None if self.fold is None else str(self.fold),
                modality=self.modality,
                build_network=self.build_network,
            )
        predictor = with_settings(predictor, settings)
        if not self.new_organs:
            return predictor
        from autoseg.inference.open_vocabulary import with_new_organs  # open_clip is loaded for a second

        return with_new_organs(predictor, self.new_organs)


def _as_list(words: Sequence[str] | str) -> list[str]:
    return [words] if isinstance(words, str) else list(words)
