"""Components of mixtures over a VAE's latents, drawn over the latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike
from torch import Tensor

from latentmix.experiments.figures.placing import write_apart
from latentmix.experiments.figures.planes import Plane, latent_plane
from latentmix.experiments.figures.sheets import Ax, Sheet
from latentmix.experiments.figures.style import (
    GREY,
    INK,
    PAPER,
    RULE,
    SMALL,
    WIDTH,
    Array,
    Line,
    as_array,
    check_finite,
    check_same_length,
    class_names,
    class_styles,
    clean,
    plain,
    shortened,
    wrapped,
)
from latentmix.models.words import plural

__all__ = ["Components", "draw_ellipse", "latent_scatter"]

LINES: tuple[Line, ...] = ("-", "--", ":", "-.")
MEANS = ("o", "D", "s", "^")
PANELS = 20  # most components in panels of their own


@final
@dataclass(frozen=True)
class Components:
    """The components of a fitted mixture.

    Args:
        means: A `K x D` array.
        covariances: A `K x D x D` array.
        classes: The class of each component; `None` or empty without classes.
        names: The name of each component; by default that of its class, or its number from 1 without classes.
    """

    means: ArrayLike | Tensor
    covariances: ArrayLike | Tensor
    classes: Sequence[int] | None = None
    names: Sequence[str] | None = None


def latent_scatter(
    latents: ArrayLike | Tensor,
    labels: ArrayLike | Tensor | None = None,
    mixtures: Components | Mapping[str, Components] | None = None,
    classes: Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    kind: str = "class",
    heading: str | None = None,
    caption: str | None = None,
    points: int = 2500,
    ax: Ax | None = None,
) -> Figure:
    """Draw latents by class, and the 2-sigma ellipses and means of mixtures.

    Two-dimensional latents have a panel for each mixture. Longer ones are projected on their `latent_plane`, with a
    panel for each component: there, ellipses of all components would cover each other. Colours are those of the
    classes, or of the components if there are none, but ink for later mixtures in a common panel; line and marker are
    those of the mixture.

    Args:
        latents: An `N x D` array with D of at least 2.
        labels: N labels, numbers or words; by default, and where a number is NaN or not among `classes`, points are
            grey.
        mixtures: Components, or components by the name of the fit, the k-th of all of them aligned; by default the
            latents alone are drawn, in one panel.
        classes: The labels in the order of the legend; by default those that occur, ascending.
        names: Names of the classes; by default the labels.
        colours: Matplotlib's colours of the classes; by default those of all pictures.
        kind: Word for the classes, over the legend.
        heading: Title of the figure.
        caption: Text below the figure, such as the type of the covariances.
        points: Most latents to draw, evenly spaced in the N.
        ax: Axes of the caller's figure to draw into: one for each panel, or a single one that holds everything.

    Raises:
        ValueError: If latents are not `N x D` and finite, labels are not N, or components have other dimensions.

    Example:
        >>> import numpy as np
        >>> from latentmix.experiments.figures import Components, latent_scatter
        >>> z = np.random.default_rng(0).normal(size=(90, 2))
        >>> latent_scatter(z, np.arange(90) % 3, names=["cat", "dog", "owl"]).get_suptitle()
        'Latents by class'
        >>> mixture = Components(means=[[0, 0], [1, 1]], covariances=[np.eye(2)] * 2)
        >>> len(latent_scatter(z, mixtures={"EM": mixture, "SVI": mixture}).axes)
        2
    """
    data = as_array(latents)
    plane = latent_plane(data)
    fits = {"mixture": mixtures} if isinstance(mixtures, Components) else dict(mixtures or {})
    _check(fits, data.shape[1])
    targets, classes, names = _classes(labels, classes, names)
    if targets is not None:
        check_same_length(latents=data, labels=targets)
    shown = class_names(classes, names)
    styles = dict(zip(classes, class_styles(len(classes)), strict=True))
    if colours is not None:
        check_same_length(classes=classes, colours=colours)
        styles = {label: (colour, styles[label][1]) for label, colour in zip(classes, colours, strict=True)}
    rows = np.linspace(0, len(data) - 1, min(points, len(data))).astype(int)
    scene = _Scene(plane, plane.project(data[rows]), None if targets is None else targets[rows], styles, shown, fits)
    single = ax is not None and (isinstance(ax, Axes) or np.size(np.asarray(ax, dtype=object)) == 1)
    together = single or not fits
    if together:
        sheet = _together(scene, ax)
    elif data.shape[1] == 2:
        sheet = _side_by_side(scene, ax)
    else:
        sheet = _one_by_one(scene, ax)
    count = max((len(as_array(c.means)) for c in fits.values()), default=0)
    projected = f"{data.shape[1]} dimensions projected on 2" if data.shape[1] > 2 else ""
    ellipses = "Marks and ellipses: means and two standard deviations of the components"
    notes = [", ".join(filter(None, [ellipses if fits else "", projected if fits else projected.capitalize()]))]
    notes += [f"the first {PANELS} of {count} components"] if projected and count > PANELS and not together else []
    notes += [caption] if caption else []
    notes += [f"{len(rows):,} of {len(data):,} latents drawn"] if len(rows) < len(data) else []
    faces = [PAPER, *[PAPER if data.shape[1] == 2 and not together else INK] * (len(LINES) - 1)]
    handles: list[Any] = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=shown[label])
        for label, (colour, marker) in (scene.styles if targets is not None else {}).items()
    ]
    handles += [
        Line2D([], [], color=INK, linewidth=1.8, linestyle=line, marker=mark, markerfacecolor=face, label=name)
        for name, line, mark, face in zip(fits, LINES, MEANS, faces, strict=False)
    ]
    default = "Latents and the components of the mixtures" if fits else f"Latents{f' by {kind}' if classes else ''}"
    sheet.title(default if heading is None else heading)
    if any(notes):
        sheet.note("; ".join(filter(None, notes)))
    if handles:
        sheet.legend(handles, kind if targets is not None else None)
    if fits and (together or data.shape[1] == 2):
        for panel, components in zip(sheet.figure.axes if sheet.own else sheet.given, fits.values(), strict=False):
            badges = [
                {"boxstyle": "round,pad=0.2", "facecolor": PAPER, "edgecolor": scene.colour(components, k), "lw": 1.6}
                for k in range(len(as_array(components.means)))
            ]
            badged = [shortened(name, 15) for name in scene.names(components)]
            whole = sheet.figure if sheet.own else None
            write_apart(whole, panel, plane.project(components.means), badged, boxes=badges, pad=3.5)
    return sheet.figure


def _check(mixtures: Mapping[str, Components], dim: int) -> None:
    for name, components in mixtures.items():
        means, covariances = as_array(components.means), as_array(components.covariances)
        count = len(means) if means.ndim else 0
        if not count or means.shape != (count, dim) or covariances.shape != (count, dim, dim):
            raise ValueError(
                f"Expected means of shape K x {dim} and covariances of shape K x {dim} x {dim} for {name}, as the "
                f"latents have {plural(dim, 'dimension')}; got {means.shape} and {covariances.shape}."
            )
        check_finite(**{f"means of {name}": means, f"covariances of {name}": covariances})


def _classes(
    labels: ArrayLike | Tensor | None, classes: Sequence[int] | None, names: Sequence[str] | None
) -> tuple[Array | None, Sequence[int], Sequence[str] | None]:
    """Labels as numbers, the classes, and their names."""
    if labels is None:
        return None, [] if classes is None else classes, names
    if not isinstance(labels, Tensor) and np.asarray(labels).dtype.kind in "USO":
        words, codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
        order = words.tolist() if classes is None else [str(label) for label in classes]
        places = np.array([order.index(word) if word in order else -1 for word in words.tolist()], dtype=float)
        return places[codes], range(len(order)), order if names is None else names
    targets = as_array(labels).ravel()
    if classes is None:
        classes = [int(label) for label in np.unique(targets[np.isfinite(targets)])]
    return targets, classes, names


def draw_ellipse(
    axes: Axes, mean: Array, covariance: Array, colour: str, *, line: Line = "-", width: float = 1.7
) -> None:
    """Draw the 2-sigma ellipse of a Normal in the plane, given 2 means and a `2 x 2` covariance."""
    scales, directions = np.linalg.eigh(covariance)
    across, up = 4.0 * np.sqrt(scales.clip(0.0))
    angle = float(np.degrees(np.arctan2(directions[1, 0], directions[0, 0])))
    ellipse = Ellipse((mean[0], mean[1]), across, up, angle=angle, facecolor="none", zorder=3)
    ellipse.set(edgecolor=colour, linewidth=width, linestyle=line)
    if line == "-":
        ellipse.set_path_effects([withStroke(linewidth=width + 1.0, foreground=PAPER, alpha=0.6)])
    axes.add_patch(ellipse)


@dataclass(frozen=True)
class _Scene:
    """The data of every panel: projected latents, styles and names of the classes, and the mixtures."""

    plane: Plane
    drawn: Array
    targets: Array | None
    styles: Mapping[int, tuple[str, str]]
    shown: Mapping[int, str]
    mixtures: Mapping[str, Components]

    def names(self, components: Components) -> list[str]:
        if components.names is not None:
            return [plain(name) for name in components.names]
        if components.classes:
            return [self.shown[label] for label in components.classes]
        return [str(k + 1) for k in range(len(as_array(components.means)))]

    def colour(self, components: Components, k: int) -> str:
        """Colour of a component: that of its class, or one of its own."""
        if components.classes:
            return self.styles[components.classes[k]][0]
        return class_styles(len(as_array(components.means)))[k][0]

    def points(self, axes: Axes, chosen: Iterable[int] | None = None) -> None:
        """Draw the latents, those of the chosen classes in colour and all others in grey."""
        size = float(np.clip(18_000 / len(self.drawn), 7, 24))
        chosen = self.styles if chosen is None else set(chosen)
        grey = np.ones(len(self.drawn), bool) if self.targets is None else ~np.isin(self.targets, list(chosen))
        tone = GREY if self.targets is None else RULE
        x, y = self.drawn[grey].T
        axes.scatter(x, y, s=size, color=tone, linewidths=0)
        for label, (colour, marker) in self.styles.items() if self.targets is not None else ():
            if label in chosen:
                x, y = self.drawn[self.targets == label].T
                axes.scatter(x, y, s=size, color=colour, marker=marker, linewidths=0, alpha=0.75)

    def component(self, axes: Axes, fit: int, k: int, *, over: bool = False) -> None:
        """Draw the mean and the ellipse of a component of the fit of that place.

        Over an earlier fit they are of ink and thinner, because a dashed line over one of its colour is not seen.
        """
        components = list(self.mixtures.values())[fit]
        mean = self.plane.project(components.means)[k]
        covariance = self.plane.project_covariances(components.covariances)[k]
        colour = INK if over else self.colour(components, k)
        line = LINES[fit % len(LINES)]
        draw_ellipse(axes, mean, covariance, colour, line=line, width=1.2 if over else 2.4)
        face, size = (INK, 4) if over else (PAPER, 8)
        mark = MEANS[fit % len(MEANS)]
        axes.plot(*mean, mark, color=colour, markerfacecolor=face, markersize=size, zorder=4)

    def window(self) -> tuple[Array, Array]:
        """Lower and upper corner of a square window: all points, and ellipses up to a limit."""
        low, high = self.drawn.min(axis=0), self.drawn.max(axis=0)
        reach = 0.25 * (high - low).max()
        ends = [low, high]
        for components in self.mixtures.values():
            means = self.plane.project(components.means)
            covariances = self.plane.project_covariances(components.covariances)
            radii = 2.0 * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
            ends.append((means - radii).min(axis=0).clip(min=low - reach))
            ends.append((means + radii).max(axis=0).clip(max=high + reach))
        low, high = np.min(ends, axis=0), np.max(ends, axis=0)
        half = max(0.53 * float((high - low).max()), 1e-6)
        centre = (low + high) / 2.0
        return centre - half, centre + half


def _together(scene: _Scene, ax: Ax | None) -> Sheet:
    """One panel with the latents and all components."""
    sheet = Sheet(ax, WIDTH, 0.94 * WIDTH / 1.3 + 1.5)
    (axes,) = sheet.panels(1)
    scene.points(axes)
    for fit, components in enumerate(scene.mixtures.values()):
        for k in range(len(as_array(components.means))):
            scene.component(axes, fit, k, over=fit > 0)
    _frame(axes, scene, axes.get_title())
    across, up = (name.replace(" (", "\n(") for name in scene.plane.names)
    axes.set(xlabel=across, ylabel=up)
    return sheet


def _side_by_side(scene: _Scene, ax: Ax | None) -> Sheet:
    """A panel for each mixture, with all of its components."""
    count = len(scene.mixtures)

    def make(figure: Figure) -> Any:
        return figure.subplots(1, count, squeeze=False, sharex=True, sharey=True)

    sheet = Sheet(ax, WIDTH, 0.94 * WIDTH / count + 1.5)
    panels = sheet.panels(count, make, what=", ".join(scene.mixtures))
    for fit, (axes, (name, components)) in enumerate(zip(panels, scene.mixtures.items(), strict=True)):
        scene.points(axes)
        for k in range(len(as_array(components.means))):
            scene.component(axes, fit, k)
        _frame(axes, scene, name)
        axes.set_xlabel(scene.plane.names[0])
    panels[0].set_ylabel(scene.plane.names[1])
    return sheet


def _one_by_one(scene: _Scene, ax: Ax | None) -> Sheet:
    """A panel for each component, with that of every mixture."""
    named = [scene.names(components) for components in scene.mixtures.values()]
    count = min(max(map(len, named)), PANELS)
    columns = min(count, 3 if count in (5, 6, 9) else 4)
    rows = -(-count // columns)
    side = 0.92 * WIDTH / max(columns, 1.4)

    def make(figure: Figure) -> Any:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes in grid[count:]:
            axes.remove()
        return grid[:count]

    sheet = Sheet(ax, WIDTH, rows * (side + 0.3) + 2.1)
    panels = sheet.panels(count, make, what=", ".join(max(named, key=len)[:count]))
    for k, axes in enumerate(panels):
        fits = [fit for fit, names in enumerate(named) if k < len(names)]
        parts = list(scene.mixtures.items())
        owners = [parts[fit][1].classes for fit in fits]
        scene.points(axes, [owner[k] for owner in owners[:1] if owner] if count > 1 else None)
        for fit in fits:
            scene.component(axes, fit, k, over=fit > 0)
        heading = named[fits[0]][k]
        if any(named[fit][k] != heading for fit in fits):
            heading = ", ".join(f"{parts[fit][0]}: {named[fit][k]}" for fit in fits)
        _frame(axes, scene, heading)
    corner = panels[(rows - 1) * columns]
    across, up = (name.replace(" (", "\n(") for name in scene.plane.names)
    corner.set(xlabel=across, ylabel=wrapped(up, 0.8 * side, SMALL))
    for axes in panels[count - columns : (rows - 1) * columns]:
        axes.xaxis.set_tick_params(labelbottom=True)
    return sheet


def _frame(axes: Axes, scene: _Scene, heading: str) -> None:
    clean(axes, grid=False)
    low, high = scene.window()
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title=heading)
    axes.set_box_aspect(1.0)
    axes.title.set(fontsize=11, fontweight="bold")
