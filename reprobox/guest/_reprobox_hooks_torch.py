"""Notes which tensors PyTorch saves, loads, and puts into a module."""

import hashlib
import sys

from _reprobox_describe import CAP_BYTES, digest_array, to_array
from _reprobox_hooks import bind, name_path


def apply(name, module, hooks):
    """Hook `torch`, just imported."""
    hooks.replace(module, "save", "save", before=_describe_saved, of=name_path(hooks, ("obj", "f")))
    hooks.replace(module, "load", "load", after=_describe_loaded, of=name_path(hooks, ("f",)))
    hooks.replace(module.nn.Module, "load_state_dict", "load", before=_describe_state, of=_name_class)
    hooks.replace(module.nn.Module, "train", "mode", after=_describe_mode, of=_name_class)


def _name_class(args, kwargs):
    return type(args[0]).__name__


def _describe_saved(args, kwargs):
    return _digest(bind(("obj", "f"), args, kwargs).get("obj"))


def _describe_loaded(args, kwargs, result):
    return _digest(result)


def _describe_state(args, kwargs):
    fields = _digest(bind(("self", "state_dict"), args, kwargs).get("state_dict"))
    noisy = sorted(
        {
            type(part).__name__
            for part in args[0].modules()
            if part.training
            and type(part).__name__.startswith(("Dropout", "AlphaDropout", "BatchNorm", "SyncBatchNorm"))
        }
    )
    return dict(fields, noisy=noisy) if noisy else fields


def _describe_mode(args, kwargs, result):
    return {"training": bool(result.training)}


def _digest(value):
    """Digest the tensors of a nested structure by their place in it."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return {}
    if hasattr(value, "state_dict"):
        value = value.state_dict()
    state = hashlib.sha256()
    left = [4 * CAP_BYTES, 0]
    _visit(numpy, value, "", state, left)
    return {"weights": state.hexdigest()[:32]} if left[1] else {}


def _visit(numpy, value, place, state, left):
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            _visit(numpy, value[key], "%s.%s" % (place, key), state, left)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _visit(numpy, item, "%s.%d" % (place, index), state, left)
    elif type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        array = to_array(numpy, value)
        left[0] -= array.nbytes
        left[1] += 1
        state.update(("%s%s%s" % (place, array.dtype, array.shape)).encode("utf-8", "surrogatepass"))
        if left[0] > 0:
            state.update(digest_array(numpy, array).encode("ascii"))
