"""The laboratory: trains models with and without codistillation, and writes down what came out.

It uses the library as any user would; the library never imports it. `codistill.lab.recipe` says what to
train, `codistill.lab.launch` starts every peer as a job of its own, `codistill.lab.folder` and
`codistill.lab.results` hold what a run leaves.
"""
