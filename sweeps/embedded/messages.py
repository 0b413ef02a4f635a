"""Short messages of customers, neighbours and colleagues, and whether their writer is unhappy (1) or not (0).

A small grammar: each area of life has things, and clauses about them that are bad, good or neither; a pattern
puts them together. About half of the patterns are plain; in the others the words alone mislead: somebody else
grumbles and the writer does not, a fault has been mended, praise is denied, a fear did not come true, "great" is
meant bitterly. The label follows from the pattern, so there is no label noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """Things, and clauses that can follow "the <thing>"."""

    things: tuple[str, ...]
    bad: tuple[str, ...]
    good: tuple[str, ...]
    neither: tuple[str, ...]


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(";"))


AREAS: dict[str, Area] = {
    "shopping": Area(
        _list("parcel; order; lamp; winter coat; bookshelf; tent; kettle; bicycle; birthday present; spare part"),
        _list(
            "arrived broken; never arrived; came two weeks late; has a crack down the middle; is the wrong size; "
            "was left out in the rain; looks nothing like the picture; fell apart after one day; is missing half "
            "of its screws; costs far too much"
        ),
        _list(
            "arrived in perfect shape; came a day early; fits like a glove; is even nicer than in the picture; "
            "was packed with care; was worth every penny; works beautifully; looks lovely in the hall"
        ),
        _list(
            "is due on Friday; weighs two kilos; is on its way; comes in three colours; can be picked up after "
            "six; is for my nephew; was sent on Monday"
        ),
    ),
    "house": Area(
        _list("boiler; heating; kitchen tap; lift; front door; roof; bathroom light; washing machine; cellar; window"),
        _list(
            "is broken again; leaks day and night; has not worked for a week; makes a horrible noise; is filthy; "
            "smells of mould; keeps us awake; lets the cold in; stops every few minutes; is falling to pieces"
        ),
        _list(
            "works like new; is warm and quiet; has never been better; looks wonderful now; is spotless; saves us "
            "so much money; runs without any trouble; was mended in no time"
        ),
        _list(
            "will be checked on Tuesday; is on the left side; was put in last spring; needs a key; is painted "
            "white; gets a new number in May; is next to the stairs"
        ),
    ),
    "food": Area(
        _list("soup; pizza; breakfast; coffee; fish; birthday cake; salad; bread; dinner; rice"),
        _list(
            "was cold and bland; was burnt; tasted of soap; made my son ill; was far too salty; took two hours; "
            "had a hair in it; was stale; was a rip-off; was awful"
        ),
        _list(
            "was delicious; was fresh and hot; tasted like home; was the best in town; came at once; was a real "
            "treat; was cooked just right; was excellent"
        ),
        _list(
            "was for four people; comes with rice; is on the second page; has nuts in it; is served until ten; "
            "was the one with beans; is for table six"
        ),
    ),
    "people": Area(
        _list("plumber; driver; waiter; teacher; nurse; technician; porter; gardener; receptionist; cleaner"),
        _list(
            "was rude to us; never turned up; forgot all about us; shouted at my mother; left a terrible mess; "
            "did not listen at all; came three hours late; lied to us; ignored our calls; broke a vase"
        ),
        _list(
            "was so kind; came right on time; did a splendid job; explained it all with patience; made us laugh; "
            "could not have been more helpful; went out of the way for us; was gentle with my mother"
        ),
        _list(
            "is called Anton; starts in June; works on Tuesdays; has the blue van; will ring at nine; took the "
            "spare key; moved here from the north"
        ),
    ),
    "street": Area(
        _list(
            "dog next door; music upstairs; building site; shared garden; hedge; parking place; playground; "
            "bakery; street lamp; fountain"
        ),
        _list(
            "drives us mad; is a disgrace; ruins every evening; is a danger to the children; gets worse every "
            "week; blocks our way; stinks; gives me a headache; is full of rubbish; wakes the baby every night"
        ),
        _list(
            "is a joy; cheers us all up; gets nicer every year; makes the street feel like home; is a great help; "
            "is well looked after; is safe for the children; is pure delight"
        ),
        _list(
            "is behind the school; belongs to number nine; was there before us; is closed on Sundays; is part of "
            "the plan; is ten years old; can be seen from here"
        ),
    ),
    "office": Area(
        _list(
            "printer; meeting room; coffee machine; office chair; new schedule; projector; staff kitchen; front "
            "desk; badge; monthly report"
        ),
        _list(
            "jams all the time; is useless; is a total mess; hurts my back; wastes hours of our time; is full of "
            "mistakes; was never cleaned; broke down twice today; makes our work harder; let us down again"
        ),
        _list(
            "is a big step forward; saves us hours; is clear and neat; is comfortable; makes work easier; is just "
            "what we needed; runs smoothly; got praise from all sides"
        ),
        _list(
            "is on the third floor; has a new code; is booked until noon; goes to Maria first; is used by two "
            "teams; was moved to room five; is for visitors"
        ),
    ),
    "travel": Area(
        _list("train; bus; ferry; flight; hotel room; taxi; guided tour; camp site; rental car; ticket desk"),
        _list(
            "was late again; was dirty and cramped; left without us; was cancelled with no warning; was a "
            "nightmare; was overbooked; cost twice the price; spoiled our holiday; was freezing; had no working "
            "toilet"
        ),
        _list(
            "was on time to the minute; was clean and bright; was better than we dreamed; had a superb view; was "
            "smooth from start to end; made our holiday; was cheap and pleasant; was a wonderful surprise"
        ),
        _list(
            "leaves at seven; goes by the old bridge; is for two adults; stops at the harbour; can be booked by "
            "phone; is number forty; takes one hour"
        ),
    ),
    "screen": Area(
        _list(
            "app; website; update; online form; password page; booking page; video; newsletter; phone line; photo album"
        ),
        _list(
            "crashes every time; deleted my photos; is painfully slow; charged me twice; sends me in circles; "
            "does not let me in; shows the wrong price; is a pain to use; lost all of my data; freezes on every "
            "page"
        ),
        _list(
            "is quick and simple; is a pleasure to use; does all I need; found my photos; saved my day; is so "
            "clear; got much faster; works on my old phone without a hitch"
        ),
        _list(
            "has a blue button; asks for a date; is in two languages; opens in a new window; changes every month; "
            "needs a number; lists all the shops"
        ),
    ),
}

NAMES = _list(
    "Anna; Tom; Maria; Ben; Carla; David; Elif; Frank; Grace; Hugo; Ines; Jonas; Karim; Lena; Mila; Nico; "
    "Olga; Paul; Rosa; Sam; Tina; Viktor; Yusuf; Zoe"
)
OTHERS = _list(
    "my sister; my neighbour; my boss; the man downstairs; my flatmate; my father; a colleague; my wife; "
    "my husband; the lady from number four; our guest"
)
TIMES = _list(
    "today; yesterday; this morning; last week; this time; once more; on Sunday; since Monday; this month; by the way"
)
UPSET = _list(
    "I am fed up; I am really annoyed; this is not good enough; I expected better; I want my money back; "
    "I am not pleased at all; I have had enough; this cannot go on; I am very disappointed; I am not "
    "happy about it; nobody seems to care; what a shame; it makes me angry; I regret coming to you; I "
    "will not come back"
)
GLAD = _list(
    "I am delighted; we are very pleased; well done; I could not be happier; what a treat; keep it up; "
    "you made our day; I have nothing to complain about; not one problem so far; I would choose it again; "
    "it was no trouble at all; I am more than satisfied; I can only praise it; we will come back; nothing "
    "was missing"
)
CALM = _list(
    "let me know; just so you know; see you then; there is no hurry; that is all for now; I thought you "
    "should know; please pass it on; a short answer will do; the rest is in the letter; I will be at home"
)
ASKS = _list(
    "could you tell me if the {t} {n}; do you know whether the {t} {n}; I only want to ask if the {t} "
    "{n}; can someone confirm that the {t} {n}; who can tell me more about the {t}; where do I find the "
    "{t}; what is the number of the {t}; may I bring a friend to see the {t}; please tell {o} that the "
    "{t} {n}"
)
FIXED = _list(
    "{p} sorted it out within an hour; it was put right the same day; {p} came at once and now all is "
    "well; I got my money back straight away; that is over now and I am content; you made up for it "
    "nicely; it turned out to be my own mistake; {p} mended it and I am grateful"
)

Pick = Callable[[tuple[str, ...]], str]


def _plain_upset(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"the {k(a.things)} {k(a.bad)}",
            f"{k(TIMES)} the {k(a.things)} {k(a.bad)}",
            f"the {k(a.things)} {k(a.bad)}. {k(UPSET)}",
            f"{k(UPSET)}: the {k(a.things)} {k(a.bad)}",
            f"the {k(a.things)} {k(a.bad)} and the {k(b.things)} {k(b.bad)}",
        )
    )


def _plain_glad(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"the {k(a.things)} {k(a.good)}",
            f"{k(TIMES)} the {k(a.things)} {k(a.good)}",
            f"the {k(a.things)} {k(a.good)}. {k(GLAD)}",
            f"{k(GLAD)}: the {k(a.things)} {k(a.good)}",
            f"the {k(a.things)} {k(a.good)} and the {k(b.things)} {k(b.good)}",
        )
    )


def _calm(k: Pick, a: Area, b: Area) -> str:
    ask = k(ASKS).format(t=k(a.things), n=k(a.neither), o=k(OTHERS)) + "?"
    return k(
        (
            ask,
            f"the {k(a.things)} {k(a.neither)}. {k(CALM)}",
            f"{k(TIMES)} I saw that the {k(a.things)} {k(a.neither)}",
            f"the {k(a.things)} {k(a.neither)} and the {k(b.things)} {k(b.neither)}",
            f"{k(CALM)}: the {k(a.things)} {k(a.neither)}",
        )
    )


def _good_but(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"the {k(a.things)} {k(a.good)}, but the {k(b.things)} {k(b.bad)} and {k(UPSET)}",
            f"I know the {k(a.things)} {k(a.good)}, yet {k(UPSET)} because the {k(b.things)} {k(b.bad)}",
            f"we were told that the {k(a.things)} {k(a.good)}. In truth it {k(a.bad)}",
        )
    )


def _bad_but(k: Pick, a: Area, b: Area) -> str:
    fixed = k(FIXED).format(p=k(NAMES))
    return k(
        (
            f"the {k(a.things)} {k(a.bad)}, but {fixed}",
            f"at first the {k(a.things)} {k(a.bad)}. Then {fixed}",
            f"last year the {k(a.things)} {k(a.bad)}. Now it {k(a.good)}",
            f"true, the {k(a.things)} {k(a.bad)}, but {fixed}, so {k(GLAD)}",
        )
    )


def _denied_good(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"I cannot say that the {k(a.things)} {k(a.good)}",
            f"nobody can claim that the {k(a.things)} {k(a.good)}",
            f"it is simply not true that the {k(a.things)} {k(a.good)}",
            f"I hoped to write that the {k(a.things)} {k(a.good)}. I cannot",
        )
    )


def _denied_bad(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"I cannot say that the {k(a.things)} {k(a.bad)}",
            f"nobody can claim that the {k(a.things)} {k(a.bad)}",
            f"it is simply not true that the {k(a.things)} {k(a.bad)}",
            f"I was afraid to hear that the {k(a.things)} {k(a.bad)}. It did not come to that",
        )
    )


def _others_glad(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"{k(OTHERS)} says that the {k(a.things)} {k(a.good)}, but {k(UPSET)}",
            f"everyone else likes the {k(a.things)}. I do not, it {k(a.bad)}",
            f"{k(OTHERS)} may be content, but for me the {k(a.things)} {k(a.bad)}",
        )
    )


def _others_upset(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"{k(OTHERS)} says that the {k(a.things)} {k(a.bad)}, but {k(GLAD)}",
            f"everyone else moans about the {k(a.things)}. I do not, it {k(a.good)}",
            f"{k(OTHERS)} may grumble, but for me the {k(a.things)} {k(a.good)}",
        )
    )


def _bitter(k: Pick, a: Area, b: Area) -> str:
    return k(
        (
            f"great, the {k(a.things)} {k(a.bad)}",
            f"how wonderful: the {k(a.things)} {k(a.bad)}",
            f"thanks for nothing, the {k(a.things)} {k(a.bad)}",
            f"well done, the {k(a.things)} {k(a.bad)}",
        )
    )


# (weight, label, pattern)
PATTERNS: tuple[tuple[int, int, Callable[[Pick, Area, Area], str]], ...] = (
    (24, 1, _plain_upset),
    (8, 1, _good_but),
    (4, 1, _denied_good),
    (6, 1, _others_glad),
    (4, 1, _bitter),
    (18, 0, _plain_glad),
    (16, 0, _calm),
    (10, 0, _bad_but),
    (4, 0, _denied_bad),
    (6, 0, _others_upset),
)
OPENERS = _list(
    "Hi {n},; Hello,; Good morning.; Dear team,; Hi all,; {n},; To whom it may concern:; Hey,; Dear {n},; Good evening,"
)
CLOSERS = _list("Regards, {n}; {n}; Thanks, {n}; Best, {n}; Thank you.; Yours, {n}; Sent by {n}; {n}, flat {d}; Bye")


@dataclass(frozen=True)
class Message:
    text: str
    label: int  # 1: the writer is unhappy
    area: str
    pattern: str
    names: tuple[str, ...]  # people named in it


def message(rng: random.Random) -> Message:
    """One message; opening and closing words are drawn alike for both labels."""
    weights = [w for w, _, _ in PATTERNS]
    _, label, pattern = rng.choices(PATTERNS, weights)[0]
    first, second = rng.sample(sorted(AREAS), 2)
    body = _sentence_case(pattern(rng.choice, AREAS[first], AREAS[second]))
    if body[-1] not in "?":
        body += rng.choice((".", ".", ".", "!"))
    if rng.random() < 0.35:
        body = f"{_named(rng, OPENERS)} {body}"
    if rng.random() < 0.3:
        body = f"{body} {_named(rng, CLOSERS)}"
    if rng.random() < 0.08:
        body = body.lower()
    names = tuple(n for n in NAMES if n.lower() in body.lower().replace(",", " ").replace(".", " ").split())
    return Message(body, label, first, pattern.__name__.strip("_"), names)


def _named(rng: random.Random, phrases: tuple[str, ...]) -> str:
    return rng.choice(phrases).format(n=rng.choice(NAMES), d=rng.randint(2, 40))


def _sentence_case(text: str) -> str:
    """Capitals after the full stop, as in ordinary writing."""
    return ". ".join(part[:1].upper() + part[1:] for part in text.split(". "))
