"""Phantom pCLE videos with planted, labelled structures; no person was ever imaged.

structures.py   what each tissue class looks like inside one planted focus
tissue.py       a plane of tissue larger than the field of view, and the mask of its foci
probe.py        the instrument: fibre bundle, drift, noise, non-diagnostic frames
conditions.py   how unkind the clinic is to a preset
phantom.py      one video from (seed, patient, video)
write.py        MP4 and mask stack on disk, the same bytes every time
dataset.py      presets and whole folders
"""
