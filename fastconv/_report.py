# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What :func:`fastconv.convert_` says that it did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Layer:
    """One module of a model.

    Attributes:
        name: As :meth:`torch.nn.Module.named_modules` gives it; the empty string for the model
            itself.
        was: The name of its class before.
        became: The layer of :mod:`fastconv.nn` that it is now, or the function that it calls; None
            if it was left alone.
        reason: Why it was left alone; None otherwise.
        aliases: Its other names, if the model contains it more than once.
    """

    name: str
    was: str
    became: str | None = None
    reason: str | None = None
    aliases: list[str] = field(default_factory=list)


@dataclass(repr=False)
class ConversionReport:
    """What :func:`fastconv.convert_` did; ``print()`` shows a table.

    Attributes:
        converted: Layers that were swapped.
        already: Layers that were fastconv's before the call.
        left: Layers of a kind that fastconv knows that were left alone, with the reason.
        fused: Convolutions with what was fused with them; `was` names all of it.
    """

    converted: list[Layer]
    already: list[Layer]
    left: list[Layer]
    fused: list[Layer] = field(default_factory=list)

    def __repr__(self) -> str:
        """The counts, on one line."""
        counts = (len(self.converted), len(self.already), len(self.left))
        fused = f", fused={len(self.fused)}" if self.fused else ""
        return "ConversionReport(converted={}, already={}, left={}{})".format(*counts, fused)

    def __str__(self) -> str:
        """One row for each layer, in the model's order; those left alone are grouped by reason."""
        rows = [("layer", "was", "is fastconv's")]
        fused = {layer.name for layer in self.fused}
        for layers, note in ((self.converted, ""), (self.already, " (before)"), (self.fused, "")):
            rows += [
                (_shown(layer), layer.was, f"{layer.became}{note}")
                for layer in layers
                if layers is self.fused or layer.name not in fused
            ]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = [repr(self)]
        if len(rows) > 1:
            lines += [f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
        for reason in dict.fromkeys(layer.reason for layer in self.left):
            names = [_shown(layer) for layer in self.left if layer.reason == reason]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"  left: {reason}: {', '.join(names[:3])}{more}")
        return "\n".join(lines)


def _shown(layer: Layer) -> str:
    return " = ".join(name or "(the model)" for name in (layer.name, *layer.aliases))
