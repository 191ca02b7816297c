"""What a run learns: pretraining, classification, segmentation, and the probes of a pretrained model."""
