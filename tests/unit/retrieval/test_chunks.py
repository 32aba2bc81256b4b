from hypothesis import given
from hypothesis import strategies as st

from workers.retrieval.chunks import MAX_PASSAGE_WORDS, split_document, word_count
from workers.retrieval.sentences import split_sentences

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=2_000)
SENTENCE = st.lists(st.text("abcdefg", min_size=1, max_size=8), min_size=1, max_size=200).map(" ".join)
ARTICLE = st.lists(SENTENCE.map(lambda words: words.capitalize() + "."), min_size=1, max_size=20)


def _without_space(text: str) -> str:
    return "".join(text.split())


@given(TEXT)
def test_sentences_lose_only_white_space(text: str) -> None:
    assert _without_space("".join(split_sentences(text))) == _without_space(text)


@given(ARTICLE, st.sampled_from(["\n\n", "\n", " "]))
def test_passages_have_all_text_in_order_and_bounded_size(sentences: list[str], separator: str) -> None:
    split = split_document(separator.join(sentences), "Untitled")
    assert " ".join(chunk.text for chunk in split.chunks).split() == " ".join(sentences).split()
    assert all(0 < word_count(chunk.text) <= MAX_PASSAGE_WORDS for chunk in split.chunks)


@given(TEXT)
def test_any_text_splits_into_bounded_passages(text: str) -> None:
    for chunk in split_document(text, "Untitled").chunks:
        assert 0 < word_count(chunk.text) <= MAX_PASSAGE_WORDS


def test_a_sentence_stays_whole_across_passages() -> None:
    sentence = "Word " * 50 + "end."
    split = split_document(" ".join([sentence] * 3), "Untitled")
    assert [word_count(chunk.text) for chunk in split.chunks] == [102, 51]


def test_short_paragraphs_share_a_passage() -> None:
    assert [chunk.text for chunk in split_document("One.\n\nTwo.", "Untitled").chunks] == ["One. Two."]


def test_title_heading_and_url_are_read() -> None:
    text = "---\nurl: https://help.example/a\n---\n# Title\nFirst.\n\n## Part\nSecond.\n\n## Alone\n"
    split = split_document(text, "Untitled")
    assert (split.title, split.url) == ("Title", "https://help.example/a")
    assert [(chunk.heading, chunk.text) for chunk in split.chunks] == [
        ("", "First."),
        ("Part", "Second."),
        ("", "Alone"),
    ]


def test_a_hash_inside_code_is_no_heading() -> None:
    assert split_document("Run:\n```\n# comment\n```\n", "Untitled").title == "Untitled"


def test_an_unclosed_front_matter_is_text() -> None:
    assert "title: x" in split_document("---\ntitle: x\nrest", "Untitled").chunks[0].text


def test_abbreviations_and_numbers_end_no_sentence() -> None:
    assert split_sentences("Use a tool, e.g. Kafka 4.1 or newer. It works!") == [
        "Use a tool, e.g. Kafka 4.1 or newer.",
        "It works!",
    ]
