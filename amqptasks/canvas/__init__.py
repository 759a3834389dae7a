"""Canvas: calls composed of calls. Chains, groups, chords, and calls that take many arguments at once.

`rules` is what `|` makes; `shaping` how it runs; `freezing` ids and results; `sending` what is published; `parts` and
`joining` a chord on the broker; `failing` what a failure brings about. Nothing here knows a worker.
"""

from amqptasks.canvas.mapping import chunks, xmap, xstarmap
from amqptasks.canvas.primitives import chain, chord, group
from amqptasks.canvas.stamping import StampingVisitor

__all__ = ["StampingVisitor", "chain", "chord", "chunks", "group", "xmap", "xstarmap"]
