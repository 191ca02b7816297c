"""Metrics of classification, segmentation and probes, each computed in one place."""
