"""Inputs that are broken or meant harm, made by script, and what has to become of each."""
