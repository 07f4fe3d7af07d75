"""LCL-SC: label-contrastive learning with saliency consistency. Tensors in, tensors out.

The ideas are those of *Interpretable classification of endomicroscopic brain data via saliency consistent
contrastive learning*; every number is this project's own.

What only measures a model is imported by its module (``lclsc.corruptions``, ``lclsc.map_quality``,
``lclsc.faithfulness``): it is no part of training, and a changed measure makes no trained model stale.
"""

from lclsc.calibration import calibrate_temperature, expected_calibration_error
from lclsc.consistency import ConsistencyKind, consistency
from lclsc.distributed import Reduction, World, gathered_label_contrast
from lclsc.encoders import ENCODERS, Encoder, build_encoder
from lclsc.fit import fit
from lclsc.global_embeddings import GlobalEmbeddings
from lclsc.inference import probabilities, reject, similarity
from lclsc.label_contrast import label_contrast
from lclsc.model import LCLSC, Embedded, Scores
from lclsc.objective import ObjectiveSettings, ramp
from lclsc.saliency import class_map, enlarge, label_map, saliency
from lclsc.step import ShardBatch, StepResult, train_step
from lclsc.topk_pool import top_k_contrast, top_k_max_min
from lclsc.views import View, ViewSettings, make_views

__all__ = [
    "ENCODERS",
    "LCLSC",
    "ConsistencyKind",
    "Embedded",
    "Encoder",
    "GlobalEmbeddings",
    "ObjectiveSettings",
    "Reduction",
    "Scores",
    "ShardBatch",
    "StepResult",
    "View",
    "ViewSettings",
    "World",
    "build_encoder",
    "calibrate_temperature",
    "class_map",
    "consistency",
    "enlarge",
    "expected_calibration_error",
    "fit",
    "gathered_label_contrast",
    "label_contrast",
    "label_map",
    "make_views",
    "probabilities",
    "ramp",
    "reject",
    "saliency",
    "similarity",
    "top_k_contrast",
    "top_k_max_min",
    "train_step",
]
