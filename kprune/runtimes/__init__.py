"""What runs models: each runtime is loaded, fed and run, and tells its version, in one file.

`litert`, `onnxruntime` and `keras` have the same methods, so that a file's runtime is a matter of
its suffix; so have `openvino`, which reads the files of two, and `tflm`. As programs of a child
process they import nothing of kprune: the child loads the one it needs by its path
(`measure.worker`), and neither Keras nor its backend with it. `litertjs` runs files in a browser,
many in one page; `vela` compiles them, and estimates what that takes; `readers` says which runtimes
do not read a file.
"""
