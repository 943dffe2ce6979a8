"""ONNX: a network as a file that onnxruntime, OpenVINO and others run, and onnxruntime on it.

    graph = exported(module, example, "frames", "features")     # onnx.ModelProto, float32, any batch
    graph = traced(module, example, "frames")                    # bytes: in a second, for a plain network
    run = runner("model.onnx", threads)                          # numpy (B, ...) -> numpy (B, ...)

Writing needs the packages onnx and onnxscript, running needs onnxruntime alone.
"""
import contextlib
import importlib.util
import io
import logging
import warnings

import numpy as np
import torch


def lacking(*packages):
    """Those of the packages that are not installed."""
    return [name for name in packages if not importlib.util.find_spec(name)]


@contextlib.contextmanager
def without_words():
    """Without the warnings of tracing and exporting, which are for authors of networks."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def traced(module, example, name):
    """The file's bytes, by tracing once: fast, and right where the code does not ask how large a batch is."""
    file = io.BytesIO()
    with torch.no_grad(), without_words():
        torch.onnx.export(module, (example,), file, input_names=[name], dynamic_axes={name: {0: "batch"}},
                          dynamo=False)
    return file.getvalue()


def exported(module, example, name, output):
    """The onnx.ModelProto of a module in eval mode, for batches of any size.

    What it says of the code that it was made from (paths of source files too) is taken out.
    """
    with torch.no_grad(), without_words():
        program = torch.onnx.export(module, (example,), input_names=[name], output_names=[output],
                                    dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True,
                                    verbose=False)
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info, *graph.graph.initializer):
        value.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    return graph


def session(file, threads):
    """An onnxruntime session on the CPU. file: a path, or the file's bytes."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4      # what it says is raised too
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def runner(file, threads):
    """numpy -> numpy: the one output of a file with one input."""
    return running(session(file, threads))


def running(ready):
    """numpy -> numpy of a session with one input and one output."""
    [entry] = ready.get_inputs()
    return lambda values: ready.run(None, {entry.name: np.ascontiguousarray(values)})[0]
