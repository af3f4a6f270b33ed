"""Semi-supervised segmentation: BCP and the baselines it must be measured beside."""
