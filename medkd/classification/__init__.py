"""Classes of whole images: the task, its model, and from a file to probabilities."""
