"""What a run learns: pretraining, classification, segmentation; probes of a pretrained model."""
