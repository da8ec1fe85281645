from __future__ import annotations

from collections import Counter

from homoexport.text.crop import crop
from homoexport.text.example import Example

WHOLE = Example([1, 1, *range(10, 20), 2])


def cropped(position: int, *, share: float = 1.0, seed: int = 0) -> list[int]:
    return crop(WHOLE, share=share, special_ids={1, 2}, seed=seed, position=position).input_ids


def test_a_part_is_a_run_of_the_text_between_its_special_tokens():
    lengths = Counter()
    for position in range(1000):
        ids = cropped(position)
        assert (ids[:2], ids[-1]) == ([1, 1], 2)
        run = ids[2:-1]
        assert run == list(range(run[0], run[0] + len(run)))
        lengths[len(run)] += 1
    assert set(lengths) == set(range(1, 11))
    assert min(lengths.values()) > 60  # each length is as likely


def test_a_share_is_cut_and_seed_and_position_say_how():
    whole = sum(cropped(position, share=0.3) == WHOLE.input_ids for position in range(1000))
    assert 0.68 < whole / 1000 < 0.78  # of those that are cut a tenth has its full length
    assert cropped(7) == cropped(7)
    assert len({tuple(cropped(position)) for position in range(50)}) > 25
    assert [cropped(p) for p in range(9)] != [cropped(p, seed=1) for p in range(9)]


def test_nothing_is_cut_of_nothing():
    bare = Example([1, 2])
    assert crop(bare, share=1.0, special_ids={1, 2}, seed=0, position=0) == bare
