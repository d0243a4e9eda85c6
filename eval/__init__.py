"""Evaluation: generate images, score them, judge them, and the statistics of the scores."""
