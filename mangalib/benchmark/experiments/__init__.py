"""Experiments: ablation, evaluation of the detector, synthetic histories, simulated customers."""
