"""Evidence: what proves which bytes made a model, and what checks the proof."""
