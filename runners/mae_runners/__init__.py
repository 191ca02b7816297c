"""The doing: models, training, evaluation, deployment. The only room that imports torch."""
