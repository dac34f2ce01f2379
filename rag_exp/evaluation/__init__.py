"""Evaluation: asking a trained reader, the predictions file, and metrics computed from it alone."""
