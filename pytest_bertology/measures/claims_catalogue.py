"""A catalogue of published claims about BERT and its kin, each with its source, and exactly when it holds here."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from difflib import get_close_matches

from pytest_bertology.errors import InvalidArgument

MIDDLE_SYNTAX = "middle layers carry most syntax"
EARLY_POSITIONS = "early layers carry positional information"
FINAL_SPECIFIC = "final layers are most task-specific"
REDUNDANT = "heads are redundant"
SINGLE_RELATIONS = "single heads track single relations"

POSITIONS = 10
"""Words of a text whose place is asked for."""
SHARE = 0.4
"""Of the heads, masked: what Michel et al. remove from BERT on MNLI."""
COST = 0.05
"""Of the score: how much a small cost is."""
CASES = 50
"""Of a relation, for it to count."""
TRACKED = 0.5
"""Of the relations: how many must have their head."""

_PRIMER = "Rogers, Kovaleva, Rumshisky 2020, A Primer in BERTology (TACL 8)"
_THIRDS = "Of layers 1 to L those up to L/3 (and the embeddings, 0) are early, those above 2L/3 are final"


@dataclass(frozen=True)
class Claim:
    """What is said of models, by whom, and how it is examined here."""

    name: str
    statement: str
    """The claim in full."""
    sources: tuple[str, ...]
    """Papers and sections."""
    measured: str
    """What is measured, and with which function."""
    needs: tuple[str, ...]
    """The arguments of `examine_claim` that give its data: one of them, or where they are joined by "+", both."""
    holds: str
    """Exactly when the claim holds, does not hold, and cannot be decided."""
    limits: str
    """What the result does not say."""
    optional: tuple[str, ...] = ()
    """Arguments that it can be given too."""

    def __str__(self) -> str:
        return self.name

    def describe(self) -> str:
        """All of it, as text of some lines."""
        rows = {
            "claim": self.statement,
            "sources": "; ".join(self.sources),
            "measured": self.measured,
            "needs": " or ".join(need.replace("+", " and ") for need in self.needs),
            "holds": self.holds,
            "limits": self.limits,
        }
        lines = [self.name]
        for name, text in rows.items():
            lines += textwrap.wrap(text, 116, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12)
        return "\n".join(lines)


_CLAIMS = (
    Claim(
        MIDDLE_SYNTAX,
        "Syntactic information is most prominent in the middle layers.",
        (
            f"{_PRIMER}, section 4.3",
            "Hewitt and Manning 2019, A Structural Probe for Finding Syntax in Word Representations (NAACL)",
            "Goldberg 2019, Assessing BERT's Syntactic Abilities",
        ),
        "`probe`, linear, of each word's relation to its syntactic head (`deprel`) at every layer, or of the labels of "
        "`task`; accuracy. Each third of the layers is represented by its best layer on a held-out part.",
        ("conllu", "task"),
        f"{_THIRDS}. Holds where the middle third's layer is surely better than that of the early third and than that "
        "of the final third: both paired intervals of the difference, texts drawn, lie above 0. Does not hold where "
        "one of them lies below 0. Otherwise, and where no probe is surely better than the most frequent label, it "
        "cannot be decided.",
        "A linear probe finds what is easily read off, not what the model uses; the published layers are those of "
        "BERT-base (6 to 9 of 12) and BERT-large (14 to 19 of 24).",
        ("train",),
    ),
    Claim(
        EARLY_POSITIONS,
        "The lower layers have the most information about linear word order.",
        (
            f"{_PRIMER}, section 4.3",
            "Lin, Tan, Frank 2019, Open Sesame: Getting Inside BERT's Linguistic Knowledge (BlackboxNLP)",
        ),
        f"`probe`, linear, of the place of each of the first {POSITIONS} words of a text at every layer; accuracy. "
        "Each third of the layers is represented by its best layer on a held-out part.",
        ("texts", "conllu"),
        f"{_THIRDS}. Holds where the early third's layer is surely better than that of the middle and than that of the "
        "final third: both paired intervals of the difference, texts drawn, lie above 0. Does not hold where one of "
        "them lies below 0. Otherwise, and where no probe is surely better than the most frequent place, it cannot be "
        "decided.",
        "Models that add vectors for positions to their embeddings hold them there; Lin et al. ask for words that "
        "order and structure tell apart.",
    ),
    Claim(
        FINAL_SPECIFIC,
        "The final layers are the most task-specific: fine-tuning changes them most.",
        (
            f"{_PRIMER}, section 4.3",
            "Kovaleva et al. 2019, Revealing the Dark Secrets of BERT (EMNLP), section 4.3",
            "Hao et al. 2019, Visualizing and Understanding the Effectiveness of BERT (EMNLP)",
        ),
        "1 − the cosine between the flattened attention maps of each head before (`base`) and after fine-tuning, mean "
        "over a layer's heads, for each text.",
        ("base+texts", "base+task"),
        "Of attention layers 1 to L those up to L/3 are early, those above 2L/3 are final. Holds where the mean change "
        "of the final third is surely greater than that of the middle and than that of the early third: both paired "
        "Student's intervals of the difference, over texts, lie above 0. Does not hold where one of them lies below 0. "
        "Otherwise it cannot be decided.",
        "A change of low layers moves what higher ones read, so that changes grow towards the top by themselves; that "
        "they are of use to the task is not shown.",
    ),
    Claim(
        REDUNDANT,
        "Models have many more heads than they need: a large share can be removed at a small cost.",
        (
            f"{_PRIMER}, sections 6.1 and 6.3",
            "Michel, Levy, Neubig 2019, Are Sixteen Heads Really Better than One? (NeurIPS), section 4",
        ),
        f"`pruning_curve` up to {SHARE:.0%} of the heads, the least important by gradient first, as ranked on `train` "
        "or on every second example; judged on the others.",
        ("task",),
        f"Holds where with {SHARE:.0%} of the heads masked the true loss of score is surely at most {COST:.0%} of the "
        "score as trained: the upper confidence bound of `retention` is. Does not hold where its lower bound is above "
        "that. Otherwise it cannot be decided.",
        "Michel et al. found 20 % (translation) to 40 % (BERT on MNLI) of heads removed with no noticeable loss; where "
        "there is nothing to lose, as the score is that of guessing, no head is needed.",
        ("train",),
    ),
    Claim(
        SINGLE_RELATIONS,
        "Single heads are for single syntactic relations.",
        (
            f"{_PRIMER}, section 4.2",
            "Clark, Khandelwal, Levy, Manning 2019, What Does BERT Look At? (BlackboxNLP), section 4.2",
        ),
        f"`head_relations`: for each relation of at least {CASES} cases the head that links words to their syntactic "
        "heads most often, chosen on other sentences than those judged, against the best fixed offset.",
        ("conllu",),
        f"Holds where for at least {TRACKED:.0%} of the relations the chosen head is surely better than the best "
        "offset (Holm's correction). Does not hold where with those that cannot be told they would still be fewer: a "
        "relation's head is surely no better where the interval of its difference ends at 0 or below. Otherwise it "
        "cannot be decided.",
        "Attention that links words need not be what the model uses; a head may be best for several relations.",
        ("train",),
    ),
)


def claims() -> tuple[Claim, ...]:
    """All claims that `examine_claim` and `assert_claim` know; `print(claim.describe())` shows one in full."""
    return _CLAIMS


def find_claim(claim: object) -> Claim:
    """The claim of this name, case and a full stop aside; raises InvalidArgument, naming those there are."""
    if isinstance(claim, Claim) and claim in _CLAIMS:
        return claim
    names = [each.name for each in _CLAIMS]
    wanted = str(claim).strip().rstrip(".").casefold()
    if wanted in names:
        return _CLAIMS[names.index(wanted)]
    close = get_close_matches(wanted, names, n=1, cutoff=0.4)
    hint = f"{close[0]!r}? The others are " if close else "one of "
    others = ", ".join(repr(name) for name in names if name not in close)
    raise InvalidArgument("claim", claim if isinstance(claim, str) else type(claim).__name__, f"{hint}{others}")
