"""Command `train`: make the two networks of the project again."""


def train() -> None:
    pass
