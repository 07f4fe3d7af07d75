"""Parameters of a workspace that goes through every step in a minute: for the orchestration benchmark and e2e tests."""

from typing import Any

MICRO: dict[str, dict[str, Any]] = {
    "train": {"epochs": 2, "batch_images": 16},  # nobody asks this model for good answers
    "split": {"validation": 0.2, "test": 0.2},
    "evaluate": {"corruption_frames": 3, "faithfulness_frames": 3},
    # A gate that lets a barely trained model through; its clauses on evidence stay.
    "promote": {
        "first_macro_f1": 0.0,
        "min_macro_f1": 0.0,
        "min_patients": 3,
        "max_loss": 1.0,
        "max_ece": None,
        "subgroups": {
            "min_class_f1": None,
            "min_site_macro_f1": None,
            "min_domain_macro_f1": None,
            "max_loss": None,
            "min_patients": 1,
        },
    },
}
