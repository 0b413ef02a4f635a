"""The colours of reports on light and on dark paper, by what they are for.

``tests/sweeps/display/test_colours.py`` holds text to a contrast of 4.5 with the paper, and marks to one of 3 (WCAG
2.2).
"""

LIGHT = {
    "ink": "#1c1f23", "soft": "#5b636d", "line": "#d9dde2", "paper": "#ffffff", "tint": "#f3f5f7",
    "win": "#0067b0", "bad": "#b3261e", "shade": "#73abd4",
    "c0": "#0067b0", "c1": "#c4500a", "c2": "#00795a", "c3": "#a9447f", "c4": "#8a6a00", "c5": "#6a51a3",
}  # fmt: skip
DARK = {
    "ink": "#e6e8eb", "soft": "#a0a8b2", "line": "#3a4048", "paper": "#16181b", "tint": "#202429",
    "win": "#6db9f2", "bad": "#ff9a90", "shade": "#395871",
    "c0": "#6db9f2", "c1": "#f39a5f", "c2": "#4cc9a4", "c3": "#e394c4", "c4": "#dcb945", "c5": "#b3a1e6",
}  # fmt: skip
SERIES = ("c0", "c1", "c2", "c3", "c4", "c5")
