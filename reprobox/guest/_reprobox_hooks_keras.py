"""Notes what Keras models are fitted on, evaluate and predict, and which weights they save and load."""

import hashlib
import sys

from _reprobox_describe import CAP_BYTES, describe, digest_array, to_array
from _reprobox_hooks import bind, name_path

_DATA = {"fit": ("self", "x", "y"), "evaluate": ("self", "x", "y"), "predict": ("self", "x")}


def apply(name, module, hooks):
    """Hook `keras` or `tf_keras`, just imported."""
    model = getattr(module, "Model", None)
    if model is None:
        model = module.models.Model
    for method, event in (("fit", "fit"), ("evaluate", "evaluate"), ("predict", "predict")):
        _hook_method(hooks, model, method, event, before=_describe_call(method), after=_describe_end(method))
    for method in ("save", "save_weights", "export"):
        _hook_method(hooks, model, method, "save", before=_describe_model, of=name_path(hooks, ("self", "filepath")))
    _hook_method(
        hooks,
        model,
        "load_weights",
        "load",
        after=_describe_loaded_weights,
        of=name_path(hooks, ("self", "filepath")),
    )
    for holder in (getattr(module, "models", None), getattr(module, "saving", None)):
        original = getattr(holder, "load_model", None)
        if original is not None and not hasattr(original, "_reprobox"):
            hooked = hooks.wrap(original, "load", None, _describe_loaded_model, of=name_path(hooks, ("filepath",)))
            _replace_everywhere(original, hooked, name)


def _hook_method(hooks, model, name, event, before=None, after=None, of=None):
    """Hook a method where it is defined: a class that only inherits it would shadow those between."""
    for cls in model.__mro__:
        if name in vars(cls):
            hooks.replace(cls, name, event, before=before, after=after, of=of)
            return


def _replace_everywhere(original, hooked, package):
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] != package:
            continue
        try:
            attributes = object.__getattribute__(module, "__dict__")
        except AttributeError:
            continue
        if attributes.get("load_model") is original:
            attributes["load_model"] = hooked


def digest_weights(model):
    """Digest a model's weights in their order, without the state of random generators; None where there are none."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not getattr(model, "built", True):
        return None
    state = hashlib.sha256()
    left = 4 * CAP_BYTES
    count = 0
    for variable in model.weights:
        if "seed_generator" in str(getattr(variable, "path", getattr(variable, "name", ""))):
            continue
        array = to_array(numpy, variable.numpy() if hasattr(variable, "numpy") else variable)
        if array is None:
            continue
        count += 1
        left -= array.nbytes
        state.update(("%s%s" % (array.dtype, array.shape)).encode("ascii"))
        if left > 0:
            state.update(digest_array(numpy, array).encode("ascii"))
    return state.hexdigest()[:32] if count else None


def _weights(model):
    digest = digest_weights(model)
    return {} if digest is None else {"weights": digest}


def _describe_call(method):
    def describe_call(args, kwargs):
        found = bind(_DATA[method], args, kwargs)
        data = {}
        for name in ("x", "y"):
            if name in found:
                data[name] = describe(found[name], sample=name == "x")
        validation = kwargs.get("validation_data")
        if isinstance(validation, (tuple, list)) and len(validation) >= 2:
            data["validation_x"] = describe(validation[0])
            data["validation_y"] = describe(validation[1])
        fields = {"data": data}
        if method != "fit":
            fields.update(_weights(args[0]))
        return fields

    return describe_call


def _describe_end(method):
    def describe_end(args, kwargs, result):
        if method == "fit":
            return _weights(args[0])
        if method == "predict":
            return {"data": {"result": describe(result)}}
        if isinstance(result, dict):
            return {"value": {str(name): float(value) for name, value in result.items()}}
        if isinstance(result, (list, tuple)):
            return {"value": [float(value) for value in result]}
        return {"value": float(result)}

    return describe_end


def _describe_model(args, kwargs):
    return dict(_weights(args[0]), **{"class": type(args[0]).__name__})


def _describe_loaded_weights(args, kwargs, result):
    return _weights(args[0])


def _describe_loaded_model(args, kwargs, result):
    return dict(_weights(result), **{"class": type(result).__name__})
