"""The words and frames of the rule-based writer: everyday English of instructions and messages.

Each line of ``SYNONYMS`` has words of one meaning."""

from __future__ import annotations

SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("decide", "determine", "judge", "find out"),
    ("classify", "label", "categorise", "sort"),
    ("answer", "reply", "respond"),
    ("say", "write", "state"),
    ("tell", "inform"),
    ("read", "look at", "consider"),
    ("text", "passage", "lines"),
    ("message", "note", "post"),
    ("writer", "author", "sender"),
    ("person", "individual"),
    ("question", "query"),
    ("following", "next", "given"),
    ("below", "underneath"),
    ("above", "preceding"),
    ("review", "comment"),
    ("sentence", "statement"),
    ("choose", "pick", "select"),
    ("correct", "right"),
    ("true", "correct"),
    ("false", "wrong"),
    ("if", "in case", "whenever"),
    ("otherwise", "if not"),
    ("means", "stands for"),
    ("happy", "glad", "pleased"),
    ("unhappy", "dissatisfied", "displeased"),
    ("angry", "cross", "annoyed"),
    ("sad", "down", "gloomy"),
    ("good", "fine", "nice"),
    ("bad", "poor", "awful"),
    ("big", "large", "great"),
    ("small", "little", "tiny"),
    ("complaint", "grievance", "criticism"),
    ("feeling", "mood", "emotion"),
    ("think", "believe", "feel"),
    ("get", "receive", "obtain"),
    ("buy", "purchase"),
    ("free", "costless"),
    ("call", "phone", "ring"),
    ("send", "mail", "forward"),
    ("start", "begin"),
    ("end", "finish"),
    ("quick", "fast", "rapid"),
    ("help", "assist", "support"),
    ("need", "require"),
    ("want", "wish", "would like"),
    ("now", "at once", "right away"),
    ("also", "too", "as well"),
    ("but", "yet", "however"),
    ("because", "since", "as"),
    ("very", "really", "quite"),
)
DROPPABLE = frozenset(  # not "that": "the one that works" would become "the one works"
    {
        "please", "kindly", "just", "really", "very", "quite", "simply", "honestly", "carefully", "closely", "only",
        "the", "a", "an", "so", "then", "now", "well", "dear", "also",
    }
)  # fmt: skip
NEUTRAL = ("just", "so", "well", "also", "now", "here", "then", "anyway", "indeed", "perhaps")
CONTRACTIONS = (
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("did not", "didn't"),
    ("cannot", "can't"),
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("I am", "I'm"),
    ("it is", "it's"),
    ("I have", "I've"),
    ("I will", "I'll"),
    ("they are", "they're"),
)
BEFORE = (  # frames around an instruction, which takes the place of {}
    "Please {}",
    "Task: {}",
    "Instruction: {}",
    "Question: {}",
    "Read carefully. {}",
    "You are a careful reader. {}",
    "Think before you answer. {}",
    "Q: {}",
)
AFTER = ("{} Be careful.", "{} Answer in one word.", "{} Decide for yourself.", "{} Give one answer only.")
NAMES = ("Text", "Message", "Input", "Content", "Passage")  # what may stand before the row's text
QUOTES = (('"', '"'), ("'", "'"), ("<<", ">>"), ("[", "]"), ("---\n", "\n---"))
JOINTS = ("\n", "\n\n", " ")  # between the row's text and the instruction
ROBUST = {  # what an instruction may say about how rows differ, by kind of difference
    "letters": ("It may contain typos.", "Ignore spelling mistakes."),
    "tail": ("Ignore stray characters and names at the end.", "The end may hold signs that mean nothing."),
    "words": ("The exact words do not matter, only what is meant.", "Look at the meaning, not at single words."),
    "order": ("The order of its parts does not matter.",),
}
