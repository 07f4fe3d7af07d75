"""Video in, grey frames out: ``clips`` reads them, one module a format; the others measure and prepare what was read.

Imports nothing: training and scoring use the geometry of stored frames and no decoder.
"""
