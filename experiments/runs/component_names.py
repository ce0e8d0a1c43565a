"""Names of the components of a mixture and of its parameters, as tables and pictures use them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from string import ascii_lowercase

__all__ = ["by_class", "component_names", "parameter_name"]


def component_names(component_classes: Sequence[int], shown: Mapping[int, str], n_components: int) -> list[str]:
    """Names of the components: their number from 1, or their class, with a letter where several have one class.

    Args:
        component_classes: The class of each component; empty without classes.
        shown: The name of each class.
        n_components: Number of the components.

    Example:
        >>> from latentmix.experiments.runs.component_names import component_names
        >>> component_names([4, 1, 4], {1: "1", 4: "4"}, 3)
        ['4a', '1', '4b']
        >>> component_names([], {}, 2)
        ['1', '2']
    """
    if not component_classes:
        return [str(k + 1) for k in range(n_components)]
    counts, seen = Counter(component_classes), Counter[int]()
    names = []
    for label in component_classes:
        name = shown[label]
        if counts[label] > 1:
            name += " " * name[-1:].isalpha() + _letters(seen[label])
        seen[label] += 1
        names.append(name)
    return names


def by_class(component_classes: Sequence[int], classes: Sequence[int], n_components: int) -> list[int]:
    """The components in the order of their classes."""
    return sorted(range(n_components), key=lambda k: classes.index(component_classes[k]) if classes else k)


def parameter_name(kind: str, component: str | None, feature: int | None) -> str:
    """A weight, mean or scale in words.

    Args:
        kind: "weight", "mean" or "scale".
        component: Name of its component; `None` of scales that all components share.
        feature: Its feature, from 0; `None` of weights, and of scales that all features share.

    Example:
        >>> from latentmix.experiments.runs.component_names import parameter_name
        >>> parameter_name("scale", "3", 1)
        'scale of component 3, dimension 2'
    """
    where = "" if component is None else f" of component {component}"
    if feature is None:
        return f"{kind}{where}"
    return f"{kind}{where}{',' if where else ' in'} dimension {feature + 1}"


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + ascii_lowercase[number % 26]
