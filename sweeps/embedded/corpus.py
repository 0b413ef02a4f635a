"""The corpus of the embedded model: messages without labels, small facts, notes, and yes/no questions.

The quickstart's own question (is the writer unhappy?) is asked in no wording here; its words occur in other contexts.
The most similar question is whether a given sentence could come next. Questions have many forms, so that the model
learns that an answer may depend on a quoted text, wherever that is. No text of the three splits occurs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from sweeps.embedded.make_data import distinct, splits
from sweeps.embedded.messages import AREAS, CALM, GLAD, NAMES, UPSET, Message

SEED = 7
CHAT = "<|user|>{q}<|assistant|>{a}"
CHAT_SYSTEM = "<|system|>{s}<|user|>{q}<|assistant|>{a}"
SYSTEMS = (
    "You answer with yes or no.",
    "You read short messages.",
    "Be brief.",
    "You are a careful clerk.",
    "Answer the question.",
    "You label posts.",
    "You sort the mail.",
)

# Forms of a question q about a text t; the answer follows.
FORMS = (
    "{t}\n{q}",
    "{q}\n{t}",
    "Text: {t}\nQuestion: {q}",
    "Question: {q}\nText: {t}",
    '"{t}"\n{q}',
    '{q}\n"{t}"',
    "Read this: {t}\n{q} Yes or no?",
    "Here is a note. {t} Now tell me: {q}",
    "- note: {t}\n- question: {q}",
    "{q} Reply with one word. {t}",
    "A: {t}\nB: {q}",
    "Somebody wrote: '{t}' {q}",
    "Look at the lines below and decide. {q}\n\n{t}\n",
    "({t}) {q}",
    "MESSAGE\n{t}\nQUESTION\n{q}",
    "<note>{t}</note> {q}",
    'Think about "{t}" and answer: {q}',
    "You get a letter: {t} Someone asks you: {q} Say yes or no.",
    "1. {t}\n2. {q}",
    "{q} yes/no\n>> {t}",
    "Please check the following words. {t} {q}",
    "[{t}]\n{q} (yes or no)",
    "I have a text and a question. The question: {q} The text: {t}",
    "Input: {t}\nTask: {q}\nOutput yes or no.",
)
AREA_QUESTIONS = (
    "Is this about {x}?",
    "Does it have to do with {x}?",
    "Is {x} the subject?",
    "Would you file it under {x}?",
    "Topic {x}: true?",
    "Does the writer speak of {x}?",
    "Can it be sorted with the {x} mail?",
    "{x}, yes or no?",
    "Is {x} what the sender writes about?",
    "Do these words belong to {x}?",
)
NAME_QUESTIONS = (
    "Is {x} named here?",
    "Does the name {x} occur?",
    "Can you find {x} in it?",
    "Do we read of {x}?",
    "Is there a person called {x}?",
)
MARK_QUESTIONS = (
    "Is there a question mark?",
    "Does the sender ask a question?",
    "Does it hold a question?",
    "Has it got an exclamation mark?",
    "Does it end with a shout?",
)
LONG_QUESTIONS = (
    "Does it have more than one sentence?",
    "Is it made of several sentences?",
    "Is there more than a single sentence?",
)
NEXT_QUESTIONS = (
    "Could it go on like this: {x}?",
    "Is the next sentence: {x}?",
    "Would these words fit behind it: {x}?",
    "May we add: {x}?",
    "Does it go with: {x}?",
    "And then, {x}. Plausible?",
    "Same letter, one line later: {x}. Right?",
)
MARKERS = ("\nAnswer:", "\nAnswer:", "\nAnswer:", "\n", " Answer:", "\nReply:", "\n->", "\nOutput:", "\nB:")

KINDS = {
    "animal": "cat dog horse bird mouse cow sheep fox bear goose",
    "fruit": "apple pear plum cherry lemon orange grape melon",
    "tool": "hammer saw drill spade rake knife brush ladder",
    "colour": "red blue green yellow black white brown pink",
    "drink": "tea milk water juice lemonade cocoa",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January April May June July October December",
    "feeling": "joy anger sadness relief fear pride disappointment delight annoyance gratitude",
    "number": "one two three seven ten twelve forty hundred",
    "building": "school bakery hotel station museum church shop tower",
}
OPPOSITES = (
    ("happy", "unhappy"),
    ("satisfied", "dissatisfied"),
    ("content", "displeased"),
    ("pleased", "annoyed"),
    ("glad", "sad"),
    ("praise", "blame"),
    ("positive", "negative"),
    ("good", "bad"),
    ("hot", "cold"),
    ("early", "late"),
    ("true", "false"),
    ("right", "wrong"),
    ("kind", "rude"),
    ("clean", "dirty"),
    ("yes", "no"),
    ("thankful", "upset"),
    ("cheerful", "gloomy"),
    ("fine", "awful"),
    ("calm", "angry"),
    ("compliment", "complaint"),
    ("delighted", "disappointed"),
    ("better", "worse"),
    ("friendly", "cross"),
)
WHO = (
    "The clerk",
    "My aunt",
    "A reader",
    "The editor",
    "Our team",
    "The customer",
    "The judge",
    "A friend",
    "The sender",
    "The author",
    "The assistant",
    "The manager",
    "A guest",
    "The person in charge",
)
DOES = (
    "sorts every {n} into one of two boxes",
    "reads the {n} and writes a short reply",
    "decides whether the {n} can wait",
    "marks the {n} with a cross or a tick",
    "keeps the {n} in a drawer",
    "asks about the tone of the {n}",
    "has to judge the {n} before noon",
    "tells us what the {n} means",
    "reports the {n} to the office",
    "expresses an opinion on the {n}",
    "gives the {n} a label",
    "classifies the {n} by its length",
    "finds a mistake in the {n}",
    "answers the {n} with a single word",
    "would like to know who wrote the {n}",
    "sounds tired of the {n}",
    "signals that the {n} is ready",
    "checks the {n} for trouble",
    "puts the {n} aside without regret",
    "voices no concern over the {n}",
    "shows the {n} to the service desk",
    "looks at the feedback and then at the {n}",
    "is bothered by the colour of the {n}",
    "feels let off when the {n} is done",
    "reviews the {n} below the line",
)
NOTES = (
    "complaint",
    "letter",
    "review",
    "comment",
    "message",
    "note",
    "remark",
    "email",
    "statement",
    "compliment",
    "request",
    "question",
    "text",
    "post",
    "entry",
    "line",
    "sentence",
    "criticism",
    "opinion",
    "form",
    "ticket",
    "feedback form",
    "report",
    "grievance",
    "paragraph",
    "quote",
    "snippet",
    "excerpt",
    "passage",
    "record",
    "case",
    "problem",
    "reply",
)
RULES = (
    "Say yes if {c}, otherwise say no.",
    "If {c}, reply yes; if not, reply no.",
    "Write yes when {c} and no when it is not so.",
    "Your task: find out whether {c}.",
    "Answer no unless {c}.",
    "Decide: {c}? Use only yes or no.",
    "Tell me if {c}.",
    "True or false: {c}.",
    "Mark it with yes if {c}.",
    "Choose yes or no: {c}.",
)


def documents(count: int) -> Iterator[str]:
    """``count`` documents, the same for the same count; chat documents start with a role token."""
    rng = random.Random(SEED)
    seen = {m.text.lower() for rows in splits().values() for m in rows}
    messages = distinct(rng, seen)
    for _ in range(count):
        roll = rng.random()
        if roll < 0.36:
            yield next(messages).text
        elif roll < 0.82:
            yield _asked(rng, *_about(rng, next(messages)))
        elif roll < 0.90:
            yield _asked(rng, *_fact(rng))
        else:
            yield " ".join(_chatter(rng) for _ in range(rng.randint(1, 3)))


def _about(rng: random.Random, m: Message) -> tuple[str, str]:
    """A question about a message (its area, people, punctuation or length) in one of the forms, and yes or no."""
    kind = rng.random()
    if kind < 0.4:
        question, answer = _next(rng, m)
    elif kind < 0.65:
        x = m.area if rng.random() < 0.5 else rng.choice([a for a in AREAS if a != m.area])
        question, answer = rng.choice(AREA_QUESTIONS).format(x=x), x == m.area
    elif kind < 0.82:
        x = rng.choice(m.names) if m.names and rng.random() < 0.7 else rng.choice(NAMES)
        question, answer = rng.choice(NAME_QUESTIONS).format(x=x), x in m.names
    elif kind < 0.93:
        question = rng.choice(MARK_QUESTIONS)
        answer = ("!" if "exclamation" in question or "shout" in question else "?") in m.text
    else:
        question, answer = (
            rng.choice(LONG_QUESTIONS),
            len([p for p in m.text.replace("!", ".").replace("?", ".").split(".") if len(p) > 9]) > 1,
        )
    if rng.random() < 0.25:  # unrelated words before or after the question
        question = " ".join(rng.sample((question, _chatter(rng)), 2))
    return rng.choice(FORMS).format(t=m.text, q=question), "yes" if answer else "no"


def _next(rng: random.Random, m: Message) -> tuple[str, bool]:
    """A question whether a sentence could come next, and whether it is one of the fitting kind."""
    fitting = UPSET if m.label else CALM if m.pattern == "calm" else GLAD
    true = rng.random() < 0.5
    sentences = fitting if true else rng.choice([kind for kind in (UPSET, GLAD, CALM) if kind is not fitting])
    return rng.choice(NEXT_QUESTIONS).format(x=rng.choice(sentences)), true


def _fact(rng: random.Random) -> tuple[str, str]:
    """A question about kinds of things or opposite words, and yes or no."""
    if rng.random() < 0.5:
        kind, other = rng.sample(sorted(KINDS), 2)
        word, truth = rng.choice(KINDS[kind].split()), rng.random() < 0.5
        named = kind if truth else other
        claim = rng.choice(
            (
                f"{word} is a kind of {named}",
                f"{word} counts as {named}",
                f"we call {word} a {named}",
                f"{word} belongs to the {named} words",
            )
        )
    else:
        first, second = rng.choice(OPPOSITES)
        third = rng.choice(rng.choice(OPPOSITES))
        truth = rng.random() < 0.5 or third in (first, second)
        a, b = rng.sample((first, second if truth else third), 2)
        claim = rng.choice(
            (
                f"{a} is the opposite of {b}",
                f"{a} and {b} are opposites",
                f"{a} stands against {b}",
                f"not {a} comes close to {b}",
            )
        )
    return rng.choice(RULES).format(c=claim), "yes" if truth else "no"


def _chatter(rng: random.Random) -> str:
    first, second = rng.choice(OPPOSITES)
    note = rng.choice(NOTES)
    return rng.choice(
        (
            f"{rng.choice(WHO)} {rng.choice(DOES).format(n=note)}.",
            f"{rng.choice(WHO)} {rng.choice(DOES).format(n=note)} and {rng.choice(DOES).format(n=rng.choice(NOTES))}.",
            f"{rng.choice(NAMES)} was {first} on Monday and {second} on Friday.",
            f"Some are {first}, some are {second}.",
            f"Is the {note} {rng.choice((first, second))} or not? Hard to say.",
            f"The word {first} has {len(first)} letters, {second} has {len(second)}.",
            f"{rng.choice(WHO)} is {rng.choice((first, second))}; "
            f"{rng.choice(NAMES)} is {rng.choice((first, second))} too.",
            f"Below is a {note}. Above it stands another {rng.choice(NOTES)}.",
            f"Put the {note} here: ____",
            f"{rng.choice(NAMES)}: what does the {note} say?\n{rng.choice(NAMES)}: "
            f"{rng.choice(('yes', 'no', 'not much', 'nothing new'))}.",
        )
    )


def _asked(rng: random.Random, question: str, answer: str) -> str:
    """The question with its answer, as a chat or as plain text with a marker between them."""
    roll = rng.random()
    if roll < 0.3:
        return CHAT.format(q=question, a=answer)
    if roll < 0.4:
        return CHAT_SYSTEM.format(s=rng.choice(SYSTEMS), q=question, a=answer)
    marker = rng.choice(MARKERS)
    return f"{question}{marker}{answer if marker == chr(10) else ' ' + answer}"
