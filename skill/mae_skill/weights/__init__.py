"""What a file of weights holds, by names and shapes alone: no torch.

`header` reads them, `names` brings them into this project's names, `parameters` lists what an
architecture needs, `fit` decides what is taken, and `layouts` says whose layout a file has. The
plan and the runner decide by the same `fit`.
"""
