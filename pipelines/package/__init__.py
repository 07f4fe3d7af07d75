"""The model package: weights, model card and the code that reads them, in one folder that runs anywhere."""

from pipelines.package.build import build_package, serving_requirements, serving_sources, training_videos

__all__ = ["build_package", "serving_requirements", "serving_sources", "training_videos"]
