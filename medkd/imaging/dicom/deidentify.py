from pydicom import Dataset


class Deidentifier:
    def __call__(self, d: Dataset) -> Dataset: ...
