"""Notes what estimators in the manner of scikit-learn are fitted on, transform, predict and score.

Every class of a library that derives from `BaseEstimator` has its methods hooked as it is made. Classes of the user's
own are left alone: workers are sent them by value, with all that they refer to. What they call is noted.
"""

import sys
import types

from _reprobox_describe import describe
from _reprobox_hooks import bind, constant
from _reprobox_state import digest_state

_METHODS = {
    "fit": "fit",
    "partial_fit": "fit",
    "fit_transform": "fit",
    "fit_predict": "fit",
    "transform": "transform",
    "inverse_transform": "transform",
    "predict": "predict",
    "predict_proba": "predict",
    "predict_log_proba": "predict",
    "decision_function": "predict",
    "score": "evaluate",
}


def apply(name, module, hooks):
    """Hook `sklearn.base` or `sklearn.metrics`, just imported."""
    if name == "sklearn.metrics":
        _hook_metrics(module, hooks)
        return
    base = module.BaseEstimator
    for found in list(vars(module).values()):
        if isinstance(found, type) and found.__module__ == name:
            _hook_class(found, hooks)

    def __init_subclass__(cls, **kwargs):
        super(base, cls).__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] not in ("__main__", "__mp_main__") and not _is_users(cls, hooks):
            _hook_class(cls, hooks)

    base.__init_subclass__ = classmethod(__init_subclass__)


def _is_users(cls, hooks):
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file is not None and hooks.is_users(file)


def _hook_class(cls, hooks):
    for name, event in _METHODS.items():
        method = vars(cls).get(name)
        if isinstance(method, types.FunctionType):
            hooks.replace(cls, name, event, before=_describe_call(event), after=_describe_end(name))
        elif (
            hasattr(method, "fn") and isinstance(method.fn, types.FunctionType) and not hasattr(method.fn, "_reprobox")
        ):
            # A method that is there on a condition: scikit-learn's own descriptor holds the function.
            method.fn = hooks.wrap(method.fn, event, _describe_call(event), _describe_end(name))


def _describe_call(event):
    def describe_call(args, kwargs):
        found = bind(("self", "X", "y"), args, kwargs)
        data = {}
        if "X" in found:
            data["X"] = describe(found["X"], sample=event in ("fit", "evaluate", "predict"))
        if "y" in found:
            data["y"] = describe(found["y"])
        fields = {"data": data}
        if event != "fit":
            fields["state"] = digest_state(args[0])
        return fields

    return describe_call


def _describe_end(name):
    def describe_end(args, kwargs, result):
        fields = {}
        if name in ("fit", "partial_fit", "fit_transform", "fit_predict"):
            fields["state"] = digest_state(args[0])
        if name == "score":
            fields["value"] = float(result)
        elif name not in ("fit", "partial_fit"):
            fields["data"] = {"result": describe(result)}
        return fields

    return describe_end


def _hook_metrics(module, hooks):
    for name in sorted(getattr(module, "__all__", ())):
        function = vars(module).get(name)
        if not isinstance(function, types.FunctionType) or hasattr(function, "_reprobox"):
            continue
        inner = getattr(function, "__wrapped__", function)
        names = inner.__code__.co_varnames[: inner.__code__.co_argcount]
        if names[:1] != ("y_true",) or len(names) < 2:
            continue
        hooked = hooks.wrap(function, "score", _describe_score(names[:2]), _describe_value, of=constant(name))
        # In its own module too: what is sent to workers must be found there again.
        for holder in (module, sys.modules.get(function.__module__)):
            if holder is not None and vars(holder).get(name) is function:
                setattr(holder, name, hooked)


def _describe_score(names):
    def describe_score(args, kwargs):
        return {"data": {name: describe(value) for name, value in bind(names, args, kwargs).items()}}

    return describe_score


def _describe_value(args, kwargs, result):
    try:
        return {"value": float(result)}
    except (TypeError, ValueError):
        return {"data": {"result": describe(result)}}
