"""A labelled data set that needs no download: reviews from a grammar, each in a positive and a negative version.

Every template can be said with either label: `+` marks a slot that agrees with the label and `-` one that opposes it,
so no template gives its label away. A draw fills one template twice, once for each label, with the same nouns and with
adjectives and deeds from the same places of paired lists: only the words of sentiment differ, and these stand as often
against the label as with it. What decides is who said it, what is negated, and what outweighs what; counting words does
not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal, TypeAlias, TypeVar

Split: TypeAlias = 'Literal["train", "test"]'
_T = TypeVar("_T")

LABELS = ("negative", "positive")
"""Names of the labels 0 and 1."""
SIZES = {"train": 1200, "test": 600}
"""Sentences in each split; half of them of each label."""


@dataclass(frozen=True)
class Topic:
    """Something that is reviewed."""

    noun: str
    aspects: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    """Each a noun, its adjectives in praise, and as many in blame."""
    deeds: tuple[tuple[str, ...], tuple[str, ...]]
    """What somebody did who did not like it, and who did: as many of each."""


# Slots: [a] and [b] are two aspects, [a±] [b±] their adjectives, [na] the bare noun of [a], [one] the topic's noun,
# [who] somebody else, [i±] and [w±] what I or they did, [very] an intensifier or hedge.
TEMPLATES = tuple(
    """
[a] was [very] [a+].
[a] was so [a+] that I [i+].
I found [a] [a+] and [b] [b+].
Honestly, I [i+].
I [i+], and I would do it again.
What I remember best is [a], which was [a+].
[a] was [a+], so it is no wonder that I [i+].
For the most part, [a] was [very] [a+].
[who] and I agreed that [a] was [a+].
[who] was right to call [a] [a+].
Everyone had told me that [a] was [a+], and they were right.
I cannot deny that [a] was [a+].
It would be wrong to say that [a] was not [a+].
I was not the only one who found [a] [a+].
I did not expect [a] to be this [a+].
Nobody had told me how [a+] [a] was.
[a] was not at all [a-].
[a] was not [a-] in the least.
[a] was anything but [a-].
[a] was far from [a-].
[a] was never [a-].
I would never call [a] [a-].
There was nothing [a-] about [a].
I do not agree that [a] was [a-].
I waited for [a] to become [a-], and it never did.
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
I had expected [a] to be [a-], but it turned out to be [a+].
[a] used to be [a-], but now it is [a+].
The first time, I [i-]; this time, I [i+].
""".strip().splitlines()
)
NEW_TEMPLATES = tuple(
    """
To my surprise, [a] was [a+].
Say what you like about [a], I [i+].
There is no denying that [a] was [a+].
[a] was by no means [a-].
[a] was hardly [a-].
Whoever says that [a] was [a-] was not paying attention.
In spite of [a], which was [a-], I [i+].
Yes, [a] was [a-], and yes, I [i+].
While [who] [w-], I [i+].
I thought that I would find [a] [a-]; instead it was [a+].
Never mind that [a] was [a-]: [b] was [b+], and I [i+].
""".strip().splitlines()
)
"""Only in the test part."""


def _topic(noun: str, aspects: str, praised: str, panned: str) -> Topic:
    rows = []
    for line in aspects.strip().splitlines():
        name, good, bad = line.split(":")
        rows.append((name.strip(), tuple(good.split()), tuple(bad.split())))
    deeds = [tuple(deed.strip() for deed in side.strip().splitlines()) for side in (panned, praised)]
    return Topic(noun, tuple(rows), (deeds[0], deeds[1]))


# Of each topic the last aspect, and the last deed on either side, are only in the test part.
TOPICS = (
    _topic(
        "film",
        """
        plot: gripping clever original : tedious predictable incoherent
        dialogue: witty brilliant natural : clumsy wooden embarrassing
        acting: superb convincing subtle : dreadful lifeless amateurish
        ending: satisfying moving unforgettable : absurd disappointing unbearable
        music: haunting beautiful delightful : intrusive irritating awful
        camera work: elegant inventive stunning : sloppy ugly careless
        humour: hilarious charming fresh : childish stale offensive
        """,
        """
        watched it again the next day
        stayed until the end to applaud
        bought tickets for {my} whole family
        told everyone at work to see it
        cheered out loud
        recommended it to {my} students
        """,
        """
        walked out after half an hour
        asked for {my} money back
        fell asleep before the end
        told everyone at work to avoid it
        yawned all the way through
        wrote {my} angriest review in years
        """,
    ),
    _topic(
        "restaurant",
        """
        soup: delicious fragrant wonderful : bland watery disgusting
        service: attentive charming excellent : rude careless terrible
        steak: tender superb perfect : tough overcooked inedible
        dining room: cosy inviting elegant : noisy dirty gloomy
        dessert: heavenly delightful exquisite : stale sickly revolting
        wine list: excellent generous thoughtful : overpriced feeble disappointing
        bread: fresh crisp tasty : dry hard mouldy
        """,
        """
        booked another table on the spot
        left a generous tip
        cleared every plate
        praised the chef
        went back the very next evening
        celebrated {my} birthday there again
        """,
        """
        left before dessert
        sent the food back
        complained to the manager
        refused to pay the full bill
        swore never to go back
        had {my} dinner somewhere else
        """,
    ),
    _topic(
        "phone",
        """
        battery: reliable impressive dependable : useless unreliable pathetic
        screen: crisp gorgeous brilliant : blurry dim horrible
        keyboard: comfortable responsive pleasant : flimsy awkward infuriating
        camera: superb excellent sharp : poor hopeless terrible
        manual: clear helpful thorough : confusing useless wrong
        customer service: helpful patient friendly : rude hopeless slow
        speaker: rich powerful clear : tinny weak distorted
        """,
        """
        ordered a second one as a gift
        used it every single day
        recommended it to all {my} friends
        gave it five stars
        thanked the seller
        kept it for {my} daughter
        """,
        """
        returned it within a week
        demanded a refund
        threw it in the bin
        gave it one star
        cursed the seller
        went back to {my} old one
        """,
    ),
    _topic(
        "hotel",
        """
        bed: comfortable luxurious heavenly : lumpy filthy uncomfortable
        view: stunning lovely magnificent : ugly depressing dreary
        breakfast: delicious generous fresh : meagre stale disgusting
        welcome: friendly warm gracious : surly rude cold
        bathroom: spotless modern beautiful : grimy mouldy disgusting
        pool: clean inviting wonderful : dirty crowded freezing
        location: ideal peaceful convenient : dangerous noisy inconvenient
        """,
        """
        extended {my} stay
        booked the same room for next year
        thanked the staff warmly
        told {my} friends to stay there
        slept wonderfully
        sent them a thank-you card
        """,
        """
        checked out a day early
        cancelled the second night
        argued with the staff
        warned {my} friends to stay away
        slept terribly
        reported them to the authorities
        """,
    ),
)
NEW_TOPIC = _topic(
    "concert",
    """
    singing: glorious flawless stirring : shrill feeble painful
    sound: rich clear magnificent : muddy deafening dreadful
    band: tight energetic terrific : sloppy bored atrocious
    choice of songs: inspired lovely perfect : dull baffling lazy
    hall: splendid comfortable beautiful : shabby stuffy hideous
    """,
    """
    danced all night
    bought the album at once
    begged for an encore
    hummed the songs for weeks
    """,
    """
    covered {my} ears
    left at the interval
    booed at the end
    regretted every minute
    """,
)
"""Only in the test part."""

_PEOPLE = tuple(line.split("/") for line in "my sister/her my brother/his my boss/her my neighbour/his my aunt/her my uncle/his".replace(" my", "\nmy").split("\n"))
_VERY = ("very", "really", "truly", "rather", "quite", "pretty", "fairly", "extremely")
_SLOT = re.compile(r"\[(\w+)([+-]?)\]")
