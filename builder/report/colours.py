"""The palette: a colour says the same in the report, the card, the pictures, the charts and the App.

Green, amber and blue are of Okabe and Ito's palette, which the colour-blind tell apart.
"""

KEPT, IGNORED, DROPPED = "#009e73", "#e69f00", "#8b95a1"
HATCH = "#7a5200"
"""Stripes on IGNORED, so that it is told apart without colour, too."""
HUMAN = "#0072b2"
"""Human labels, and what is measured on them."""
OUTCOMES = {"kept": KEPT, "ignored": IGNORED, "dropped": DROPPED}
TEXT_ON = {"kept": "white", "ignored": "black", "dropped": "black"}
VOID_COLOUR = DROPPED
"""Pixels of a map that teach nothing."""
INK, FAINT, GRID, BACKDROP = "#1f2933", "#56616d", "#e8ebef", "#e5e7eb"
"""Text and axes, what stands back, grid lines, what lies around a picture."""
