import pytest

from latentmix.experiments.runs.component_names import by_class, component_names


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([4, 1, 4], ["4a", "1", "4b"]),
        ([], ["1", "2", "3"]),
        ([1] * 28, [f"1{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["1aa", "1ab"]),
    ],
)
def test_names_of_components(classes: list[int], names: list[str]) -> None:
    assert component_names(classes, {1: "1", 4: "4"}, len(names)) == names
    assert component_names([0, 0], {0: "Bag"}, 2) == ["Bag a", "Bag b"]


def test_components_are_ordered_by_their_classes() -> None:
    assert by_class([8, 1, 4, 1], [1, 4, 8], 4) == [1, 3, 2, 0]
    assert by_class([], [], 3) == [0, 1, 2]
