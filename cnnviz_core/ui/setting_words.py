"""Settings as people read them: plain names, values with their unit, classes by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnnviz_core.images import InputImage
from cnnviz_core.numerals import true_minus
from cnnviz_core.results import PictureName

_MOST_WORDS = 80

# Where the name in the code, with spaces, does not say it.
_NAMES = {
    "blur_every": "steps from blur to blur",
    "box": "rectangle",
    "cell": "unit at row, column",
    "decorrelated": "decorrelated colours",
    "direction": "mixture",
    "epsilon": "ε in 255ths",
    "fourier": "Fourier",
    "from_zero": "cut at zero",
    "image": "picture",
    "k": "how many",
    "l2": "penalty on squares",
    "model": "network",
    "num_frames": "frames",
    "num_random": "random orders",
    "octave_scale": "scale from octave to octave",
    "redirected": "rescue of dead starts",
    "robust": "changing views",
    "sign": "excite or inhibit",
    "stride_px": "step",
    "variation": "smoothness",
}
_VALUES: Mapping[tuple[str, object], str] = {
    ("norm", "linf"): "largest change",
    ("norm", "l2"): "length of the change",
    ("sign", 1): "excite",
    ("sign", -1): "inhibit",
}
_UNITS = {"_px": "px", "_seconds": "s"}
_OF_CLASSES = ("against", "classes", "target", "targets")


def of(settings: Mapping[str, object], *, class_names: Sequence[str] = ()) -> dict[str, str]:
    """Names and values for people; what is not set is left out. Words stay as they are.

    Args:
        settings: By their names in the code, or words already.
        class_names: Of the network, by which class indices are named; empty leaves the numbers.
    """
    found = {}
    for name, value in settings.items():
        words = _VALUES.get((name, value)) if isinstance(value, str | int) else None
        if words is None:
            is_of_classes = name in _OF_CLASSES and class_names
            words = _value(_named(value, class_names) if is_of_classes else value)
        unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")
        plain = name.removesuffix("_px").removesuffix("_seconds").replace("_", " ")
        if words:
            found[_NAMES.get(name, plain)] = f"{_cut(words)} {unit}".rstrip()
    return found


def _named(value: object, class_names: Sequence[str]) -> object:
    """Class indices as names."""
    if isinstance(value, list | tuple):
        return [_named(one, class_names) for one in value]
    return class_names[value] if isinstance(value, int) and 0 <= value < len(class_names) else value


def _value(value: object) -> str:
    """Empty for nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, InputImage | PictureName):
        return value.name
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words}" for name, words in of(value).items())
    if isinstance(value, list | tuple):
        are_pairs = all(isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) for one in value)
        return _value(dict(value)) if are_pairs else ", ".join(map(_value, value))
    return true_minus(f"{value:g}") if isinstance(value, float) else str(value)


def _cut(words: str) -> str:
    return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…"
