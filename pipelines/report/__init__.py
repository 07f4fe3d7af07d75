"""The page a reviewer opens after each retrain, its figures, and the sheet of saliency maps."""
