"""Dataset folders, preprocessing (one owner), samplers, augmentation, generated phantoms."""
