import pytest

from homoexport.text.sentences import count_words, split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Congress met on Monday.", "It adjourned on Tuesday!", "Who was there?", "Nobody."],
        ["Mr. Adams and Sen. Elizabeth Warren, D-Mass., spoke.", "Nobody listened."],
        ["J. Edgar Hoover met Gen. U. S. Grant at St. James.", "They talked."],
        ["He was born in the U.S. Virgin Islands.", "She was not."],
        ["He lives in the U.S.", "She does not."],
        ["They left at 5 p.m.", "The door was open."],
        ["They left at 5 p.m. Monday.", "The door was open."],
        ['"Stay here!"', "He stayed."],
        ['He said "no."', "She agreed."],
        ["(It was late.)", "We went home."],
        ["“Go on.”", "“I will.”"],
        ["It rose by 3.5 percent, i.e. by $2.4 billion.", "In 1974 it fell."],
        ["Five were found in No. 5.", "2 were not."],
        ["The answer is no.", "We stay."],
        ["Wait ... and see.", "Then go..."],
        ['He asked "why?" and left.', "No answer came."],
        ["Ärger gibt es.", "Über alles."],
        ["No full stop at the end"],
    ],
)
def test_joined_sentences_are_found_again(sentences: list[str]) -> None:
    assert list(split_sentences("  ".join(sentences))) == sentences


def test_nothing_but_white_space_is_lost() -> None:
    text = 'One.Two. Three!? "Four." (Five.)\n\nsix. 7. Eight'
    assert " ".join(split_sentences(text)) == " ".join(text.split())
    assert list(split_sentences(" \n\t ")) == []


def test_figures_are_no_words() -> None:
    assert count_words("In 1943 it was 1,653 -- 12.5 percent") == 4
