"""The model package: weights, model card and the code that reads them, in one folder that runs anywhere."""

from pipelines.package.build import build_package, serving_requirements, serving_sources, training_videos
from pipelines.package.source_archive import FILE as SOURCE_TAR

__all__ = ["SOURCE_TAR", "build_package", "serving_requirements", "serving_sources", "training_videos"]
