"""The sections of the page that have figures."""

MATTERED, DISTRIBUTION, WINS, ANSWERS, LEARNING, AXES, COST = (
    "mattered", "distribution", "wins", "answers", "learning", "axes", "cost",
)  # fmt: skip
