"""The jobs behind the verbs: prepare a dataset, train a recipe, evaluate, predict, quickstart."""
