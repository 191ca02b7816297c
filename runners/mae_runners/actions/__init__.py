"""One module per action; each has `run(spec, context) -> dict` with `kpis` and `artefacts`.

The segmenter's evaluation and prediction have a file of their own; `measure` times the first steps
of a training run.
"""
