"""What runs models: each runtime is loaded, fed and run, and tells its version, in one file.

`litert`, `onnxruntime` and `keras` have the same methods, so that a file's runtime is a matter of
its suffix. They import nothing of kprune: a child process that measures a file
(`measure.worker`) loads the one it needs by its path, and neither Keras nor its backend with it.
`litertjs` runs files in a browser, many in one page.
"""
