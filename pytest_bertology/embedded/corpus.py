"""A labelled data set that needs no download: reviews from a grammar, each in a bad and a good version.

A draw fills one template twice, once for each label, with the same nouns and with adjectives and deeds from the same
places of paired lists; so no template gives its label away. A slot marked `+` agrees with the label, one marked `-`
opposes it: there, what decides is what is negated, what outweighs what, and who said it. One sentence in ten is such a
twisted one; all of them would be more than a frozen sentence encoder can read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from random import Random
from typing import Literal, TypeVar

from pytest_bertology.errors import InvalidArgument

LABELS = ("negative", "positive")
"""The names of labels 0 and 1."""
SIZES = {"train": 1600, "test": 600}
"""Sentences of each split, half of them of each label."""

_T = TypeVar("_T")


@cache
def sentences(split: Literal["train", "test"]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The sentences of a split, all different, and their labels: the same ones in every process, everywhere.

    The two versions of a sentence stand side by side, so that a slice of even bounds is balanced. Many test
    sentences have a template, topic, aspect, deed or person that the train part never has. Raises
    InvalidArgument for another split.
    """
    if split not in SIZES:
        raise InvalidArgument("split", split, "'train' or 'test'")
    if split == "train":
        known = [Topic(topic.name, topic.aspects[:-1], topic.deeds[:-1]) for topic in topics(TOPICS)]
        return _draw(_order(TEMPLATES, TWISTED), known, PEOPLE, SIZES[split], ())
    order = _order(TEMPLATES + NEW_TEMPLATES, TWISTED + NEW_TWISTED)
    about = topics(TOPICS) + topics(NEW_TOPICS)
    return _draw(order, about, PEOPLE + NEW_PEOPLE, SIZES[split], sentences("train")[0])


# [a], [b]: two aspects; [a+], [b-]: their adjectives; [na]: [a] without "the"; [one]: the topic;
# [who]: somebody; [i+], [w-]: what I did, what they did; [very]: an intensifier or hedge.
TEMPLATES = """
[a] was [very] [a+].
[a] was so [a+] that I [i+].
I found [a] [a+] and [b] [b+].
I [i+], and I would do it again.
What I remember best is [a], which was [a+].
[a] was [a+], so it is no wonder that I [i+].
[who] and I agreed that [a] was [a+].
[who] was right to call [a] [a+].
Everyone had told me that [a] was [a+], and they were right.
I cannot deny that [a] was [a+].
It would be wrong to say that [a] was not [a+].
I was not the only one who found [a] [a+].
I did not expect [a] to be this [a+].
Nobody had told me how [a+] [a] was.
""".strip().splitlines()

TWISTED = """
[a] was not at all [a-].
[a] was not [a-] in the least.
[a] was anything but [a-].
[a] was far from [a-].
I would never call [a] [a-].
There was nothing [a-] about [a].
I do not agree that [a] was [a-].
I kept waiting for [a] to prove [a-], and it never did.
[a] was less [a-] than I had expected.
[a] could have been [a-], but it was not.
It makes the [na] of every other [one] look [a-].
[who] was wrong to call [a] [a-].
The reviews said that [a] was [a-], and they were wrong.
[a] was [a-], but [b] was so [b+] that I [i+].
Although [a] was [a-], I [i+].
I [i+], even though [a] was [a-].
[a] may be [a-], but [b] is [b+], and that is what counts.
[a] was [a-] and [b] was [b-], and still I [i+].
[a] was too [a+] to be called [a-].
[who] [w-]; I [i+].
I [i+], although [who] [w-].
[who] [w-], which I will never understand, because [a] was [a+].
[who] called [a] [a-], but I thought it was [a+].
At first I found [a] [a-], but in the end it was [a+].
The first time, I [i-]; this time, I [i+].
""".strip().splitlines()

NEW_TEMPLATES = """
To my surprise, [a] was [a+].
Say what you like about [a], I [i+].
There is no denying that [a] was [a+].
""".strip().splitlines()

NEW_TWISTED = """
[a] was by no means [a-].
[a] was hardly [a-].
Whoever says that [a] was [a-] was not paying attention.
In spite of [a], which was [a-], I [i+].
Yes, [a] was [a-], and yes, I [i+].
I thought that I would find [a] [a-]; instead it was [a+].
Never mind that [a] was [a-]: [b] was [b+], and I [i+].
""".strip().splitlines()

# Aspect: adjectives in praise / as many in blame. Without a colon: a deed in praise / one in blame.
# The last aspect and the last deed of each topic are for the test part alone.
TOPICS = """
film
    plot: gripping clever original / tedious predictable incoherent
    dialogue: witty brilliant natural / clumsy wooden embarrassing
    acting: superb convincing subtle / dreadful lifeless amateurish
    ending: satisfying moving unforgettable / absurd disappointing unbearable
    music: haunting beautiful delightful / intrusive irritating awful
    camera work: elegant inventive stunning / sloppy ugly careless
    humour: hilarious charming fresh / childish stale offensive
    watched it again the next day / walked out after half an hour
    stayed until the end to applaud / fell asleep before the end
    bought tickets for [my] whole family / asked for [my] money back
    told everyone at work to see it / told everyone at work to avoid it
    cheered out loud / yawned all the way through
    recommended it to [my] students / warned [my] students against it
restaurant
    soup: delicious fragrant wonderful / bland watery disgusting
    service: attentive charming excellent / rude careless terrible
    steak: tender superb perfect / tough overcooked inedible
    dining room: cosy inviting elegant / noisy dirty gloomy
    dessert: heavenly delightful exquisite / stale sickly revolting
    wine list: excellent generous thoughtful / overpriced feeble disappointing
    bread: fresh crisp tasty / dry hard mouldy
    booked another table on the spot / swore never to go back
    left a generous tip / refused to pay the full bill
    cleared every plate / sent the food back
    praised the chef / complained to the manager
    stayed until they closed / left before dessert
    went back the very next evening / finished [my] dinner somewhere else
phone
    battery: reliable impressive dependable / useless unreliable pathetic
    screen: crisp gorgeous brilliant / blurry dim horrible
    keyboard: comfortable responsive pleasant / flimsy awkward infuriating
    camera: superb excellent sharp / poor hopeless terrible
    manual: clear helpful thorough / confusing useless misleading
    customer service: helpful patient friendly / rude hopeless slow
    speaker: rich powerful clear / tinny weak distorted
    ordered a second one as a gift / returned it within a week
    used it every single day / threw it in the bin
    recommended it to all [my] friends / warned all [my] friends against it
    gave it five stars / gave it one star
    thanked the seller / demanded a refund
    bought another for [my] mother / went back to [my] old one
hotel
    bed: comfortable luxurious heavenly / lumpy filthy uncomfortable
    view: stunning lovely magnificent / ugly depressing dreary
    breakfast: delicious generous fresh / meagre stale disgusting
    welcome: friendly warm gracious / surly rude cold
    bathroom: spotless modern beautiful / grimy mouldy disgusting
    pool: clean inviting wonderful / dirty crowded freezing
    location: ideal peaceful convenient / dangerous noisy inconvenient
    extended [my] stay / checked out a day early
    booked the same room for next year / cancelled the second night
    thanked the staff warmly / argued with the staff
    told [my] friends to stay there / told [my] friends to stay away
    slept wonderfully / slept terribly
    sent them a thank-you card / reported them to the authorities
"""

NEW_TOPICS = """
concert
    singing: glorious flawless stirring / shrill feeble painful
    sound: rich clear magnificent / muddy deafening dreadful
    band: tight energetic terrific / sloppy bored atrocious
    choice of songs: inspired lovely perfect / dull baffling lazy
    hall: splendid comfortable beautiful / shabby stuffy hideous
    danced all night / left at the interval
    bought the album at once / demanded [my] money back
    begged for an encore / booed at the end
    hummed the songs for weeks / regretted every minute
"""

PEOPLE = [("my sister", "her"), ("my brother", "his"), ("my boss", "her"), ("my neighbour", "his")]
NEW_PEOPLE = [("my uncle", "his"), ("my daughter", "her")]
VERY = ["truly", "really", "quite", "rather", "simply", "plainly", "frankly", "undeniably"]


@dataclass(frozen=True)
class Topic:
    """Something that people review; pairs hold what is said for label 0 and for label 1."""

    name: str
    aspects: list[tuple[str, tuple[list[str], list[str]]]]
    deeds: list[tuple[str, str]]


def topics(table: str) -> list[Topic]:
    """Read TOPICS or NEW_TOPICS."""
    found: list[Topic] = []
    for line in table.strip().splitlines():
        if not line.startswith(" "):
            found.append(Topic(line, [], []))
            continue
        aspect, _, words = line.strip().rpartition(": ")
        praise, blame = words.split(" / ")
        if aspect:
            found[-1].aspects.append((aspect, (blame.split(), praise.split())))
        else:
            found[-1].deeds.append((blame, praise))
    return found


def _order(plain: list[str], twisted: list[str]) -> Iterator[str]:
    """All templates without end, in turn, each tenth a twisted one."""
    straight, turned = cycle(plain), cycle(twisted)
    while True:
        yield from islice(straight, 9)
        yield next(turned)


def _draw(
    order: Iterator[str], about: list[Topic], people: list[tuple[str, str]], size: int, taken: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Pairs of sentences, from each template in turn, until there are `size` that are not among `taken`."""
    random = Random(len(taken))  # noqa: S311
    drawn: dict[str, int] = {}
    for template in order:
        if len(drawn) == size:
            break
        pair = _pair(template, _pick(random, about), _pick(random, people), random)
        if not any(text in drawn or text in taken for text in pair):
            drawn.update(zip(pair, (0, 1), strict=True))
    return tuple(drawn), tuple(drawn.values())


def _pair(template: str, topic: Topic, person: tuple[str, str], random: Random) -> tuple[str, str]:
    """A template filled for label 0 and for label 1, with the same choices."""
    a = _pick(random, topic.aspects)
    b = _pick(random, [aspect for aspect in topic.aspects if aspect is not a])
    mine = _pick(random, topic.deeds)
    other = _pick(random, [deed for deed in topic.deeds if deed is not mine])
    very, place = _pick(random, VERY), _pick(random, range(len(a[1][0])))
    fixed = {"na": a[0], "a": f"the {a[0]}", "b": f"the {b[0]}", "one": topic.name, "very": very}

    def filled(label: int) -> str:
        def word(slot: re.Match[str]) -> str:
            name, sign = slot.groups()
            said = label if sign == "+" else 1 - label
            if not sign:
                return person[0] if name == "who" else fixed[name]
            if name in "ab":
                return (a if name == "a" else b)[1][said][place]
            # Two deeds in one sentence are not each other's counterparts: people do not talk like that.
            return (mine if sign == "+" else other)[said].replace("[my]", "my" if name == "i" else person[1])

        text = re.sub(r"\[(\w+)([+-]?)\]", word, template)
        return text[0].upper() + text[1:]

    return filled(0), filled(1)


def _pick(random: Random, choices: Sequence[_T]) -> _T:
    """One of `choices`, by `random()` alone: its numbers alone are promised to be the same in every Python."""
    return choices[int(random.random() * len(choices))]
