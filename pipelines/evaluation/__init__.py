"""What evaluation measures: levels, subgroups, intervals, maps, corrupted frames. The stage: ``pipelines.evaluate``."""
