"""What `benchmarks/method.py` compares, on what, and how one cell of its table is measured.

labelled_sets.py   the sets, each patient in one split
baselines.py       the methods: objectives in the product's own trainer
cell.py            one method, one set, one seed: train, then measure on unseen patients
table.py           cells to figures with intervals, and the claims about them
"""
