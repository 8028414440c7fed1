"""Where the adapters of each depth look for the words of a report's likeliest diagnosis.

Shapes: H, W of the photograph, G patches a side.
"""

import numpy as np

from mdf.dialogue import Turn, diagnosis_answer
from mdf.evaluation.diagnosis import diagnosis_question
from mdf.imaging.frame import Frame
from mdf.inference.predictor import Photograph, Predictor
from mdf.inference.report import EyeReport
from mdf.models.attention import attention_maps


def depth_maps(predictor: Predictor, photograph: Photograph, eye: EyeReport) -> dict[str, np.ndarray]:
    """A map for each depth, float [H,W] of 0 to 1, its brightest place 1, by a name that says depth and stride; none
    where there is no diagnosis or no adapter.
    """
    model = predictor.model
    if eye.impression is None or not eye.impression.diagnoses or not model.fusion.layers:
        return {}
    question, _ = diagnosis_question(predictor.processor)
    answer = diagnosis_answer(predictor.prompts, (eye.impression.diagnoses[0].name,))
    turns = [model.system_turn(), Turn("user", question)]
    found = attention_maps(model, photograph.inputs, [turns], [answer])[0]
    frame, whole = Frame.of(photograph.image, predictor.processor.preprocessing), found.answer.numpy()
    maps = {}
    for depth in sorted(set(found.depths)):
        values = frame.place(whole[[i for i, d in enumerate(found.depths) if d == depth]].mean(0))
        maps[f"depth {depth}, stride {2**depth}"] = np.clip(values / max(float(values.max()), 1e-12), 0, 1)
    return maps
