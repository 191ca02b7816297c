"""One module an action; each has `run(spec, context) -> dict` with `kpis` and `artefacts`."""
