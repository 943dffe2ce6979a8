"""ONNX: a network as a file that onnxruntime, OpenVINO and others run, and onnxruntime on it.

Writing needs the packages onnx and onnxscript, running needs onnxruntime alone, which brings protobuf.
"""
import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import warnings

import numpy as np

from lrcn.base.lazy import Lazy

torch = Lazy("torch")


def lacking(*packages):
    """The packages that are not installed."""
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


def any_size(*axes):
    """For torch's exporters: the shapes of an input whose first axes, named here, have any size."""
    return ({i: torch.export.Dim(name) for i, name in enumerate(axes)},)


def exported(module, example, name, output, axes=("batch",)):
    """The onnx.ModelProto of a module in eval mode, for inputs of any size along the first axes, without
    metadata of the code that it was made from, such as paths."""
    with torch.no_grad(), without_words():
        program = torch.onnx.export(module, (example,), input_names=[name], output_names=[output],
                                    dynamic_shapes=any_size(*axes), dynamo=True, verbose=False)
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info, *graph.graph.initializer):
        value.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    return graph


# A file's last 76 bytes: one more of its metadata_props, sha256 and 64 digits
SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"


def sealed(raw):
    """An ONNX file's bytes and their digest."""
    return raw + SEAL + hashlib.sha256(raw).hexdigest().encode()


def broken(raw):
    """Whether a file has a digest that is not its own."""
    body, seal = raw[:-len(SEAL) - 64], raw[-len(SEAL) - 64:]
    return seal.startswith(SEAL) and sealed(body) != raw


def may_loop(raw):
    """Whether a node of a file holds a graph of its own, as Loop, If and Scan do, and may run for ever; no
    exported network has one. protobuf's DecodeError: no ONNX file."""
    from google.protobuf import empty_pb2, unknown_fields

    def fields(message, *numbers):
        return [field.data for field in unknown_fields.UnknownFieldSet(empty_pb2.Empty.FromString(message))
                if field.field_number in numbers and field.wire_type == 2]
    nodes = [node for graph in fields(raw, 7) for node in fields(graph, 1)]     # of the ModelProto's graph
    nodes += [node for function in fields(raw, 25) for node in fields(function, 7)]
    return any(fields(attribute, 6, 11) for node in nodes for attribute in fields(node, 5))


def most_memory():
    """Bytes that a network from a stranger may take: half of the machine's."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):   # Windows does not say
        return 8 << 30


@functools.cache
def _limited():
    """Give onnxruntime limited memory, for the sessions that ask for it."""
    import onnxruntime as ort
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"max_mem": most_memory()}))


def runner(file, threads, limited=False):
    """run: numpy -> numpy, the one output of a file with one input, by onnxruntime's `run.session` on a CPU.
    file: a path, or the file's bytes. limited: all such runs together get `most_memory`, else they raise."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4      # what it says is raised too
    if limited:
        _limited()
        options.add_session_config_entry("session.use_env_allocators", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name

    def run(values):
        return session.run(None, {entry: np.ascontiguousarray(values)})[0]
    run.session = session
    return run
