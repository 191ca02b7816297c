"""Semantic segmentation outside the network: loss, figures, whole pictures from windows, colours."""
