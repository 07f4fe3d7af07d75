"""Intake: what a site exports becomes videos of the workspace, or stands in quarantine with a reason.

``incoming`` reads a batch's manifest, ``sources`` its files wherever they lie; ``take_in`` goes through its rows with
the checks of ``clip_checks``; ``commit`` writes down what was accepted; ``drop_folder`` watches for batches.
"""

from pipelines.intake.batch import IntakeReport
from pipelines.intake.take_in import release, run

__all__ = ["IntakeReport", "release", "run"]
