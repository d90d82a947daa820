"""Notes what NumPy, pandas and scikit-learn's datasets read, and what pickle and joblib save and load."""

import sys

from _reprobox_describe import describe
from _reprobox_hooks import bind, constant
from _reprobox_state import digest_objects, digest_state, is_estimator

_READERS = {
    "numpy": ("loadtxt", "genfromtxt", "fromfile"),
    "pandas": (
        "read_csv", "read_table", "read_fwf", "read_parquet", "read_feather", "read_json", "read_excel", "read_hdf",
        "read_pickle", "read_orc",
    ),
}  # fmt: skip


def apply(name, module, hooks):
    """Hook one of these modules that was just imported."""
    if name == "sklearn.datasets":
        for found in sorted(getattr(module, "__all__", ())):
            if found.startswith(("load_", "fetch_")):
                hooks.replace(module, found, "read", after=_describe_dataset, of=constant(found))
    elif name == "numpy":
        hooks.replace(module, "load", "read", after=_describe_result, of=_name_first(hooks))
        hooks.replace(module, "save", "save", before=_describe_saved, of=_name_first(hooks))
        _hook_readers(name, module, hooks)
    elif name == "pandas":
        _hook_readers(name, module, hooks)
    elif name == "pickle":
        hooks.replace(module, "load", "load", after=_describe_object, of=_name_first(hooks))
        hooks.replace(module, "dump", "save", before=_describe_dumped, of=_name_second(hooks))
    else:
        # joblib has both in a module of its own, and gives them again.
        inner = sys.modules.get("joblib.numpy_pickle", module)
        hooks.replace(inner, "load", "load", after=_describe_object, of=_name_first(hooks))
        hooks.replace(inner, "dump", "save", before=_describe_dumped, of=_name_second(hooks))
        for function in ("load", "dump"):
            if hasattr(module, function):
                setattr(module, function, getattr(inner, function))


def _hook_readers(name, module, hooks):
    for function in _READERS[name]:
        hooks.replace(module, function, "read", after=_describe_result, of=_name_first(hooks))


def _name_first(hooks):
    # What is read from memory or a socket has no name, and is not noted.
    def name(args, kwargs):
        first = args[0] if args else next(iter(kwargs.values()), None)
        return None if first is None else hooks.name_file(first)

    return name


def _name_second(hooks):
    def name(args, kwargs):
        found = bind(("value", "file"), args, kwargs)
        target = found.get("file", kwargs.get("filename"))
        return None if target is None else hooks.name_file(target)

    return name


def _describe_result(args, kwargs, result):
    return {"data": {"result": describe(result)}}


def _describe_saved(args, kwargs):
    found = bind(("file", "arr"), args, kwargs)
    return {"data": {"value": describe(found["arr"])}} if "arr" in found else {}


def _describe_dataset(args, kwargs, result):
    if isinstance(result, tuple):
        return {"data": {"%d" % index: describe(part) for index, part in enumerate(result)}}
    data = {key: describe(result[key]) for key in ("data", "target") if isinstance(result, dict) and key in result}
    return {"data": data}


def _describe_object(args, kwargs, result):
    if is_estimator(result) or isinstance(result, (dict, list, tuple)):
        return {"class": type(result).__name__, "state": digest_state(result)}
    found = describe(result)
    return {"class": type(result).__name__, "data": {"result": found}}


def _describe_dumped(args, kwargs):
    value = args[0] if args else kwargs.get("value", kwargs.get("obj"))
    fields = _describe_object(args, kwargs, value)
    content = digest_objects(value)
    return fields if content is None else dict(fields, content={"recipe": "objects-v1/sha256", "digest": content})
