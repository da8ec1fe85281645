import pytest

from homoexport.errors import UserError
from homoexport.units import parse_bytes, parse_percent


@pytest.mark.parametrize(
    ("text", "value"), [("256MB", 256_000_000), ("1GiB", 2**30), ("1.5 kB", 1500), ("64KiB", 65536), ("7B", 7)]
)
def test_sizes(text: str, value: int) -> None:
    assert parse_bytes(text, where="x") == value


@pytest.mark.parametrize("text", ["256", "MB", "8 parsecs", "-1MB", "0MB", "1 mb", "1e3MB", "", "nanMB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no size"):
        parse_bytes(text, where="--device")


def test_percentages() -> None:
    assert parse_percent("5%", where="x") == 0.05
    assert parse_percent("2.5 %", where="x") == 0.025
    for text in ("5", "0%", "-5%", "five%", ""):
        with pytest.raises(UserError, match="is no percentage"):
            parse_percent(text, where="--fail-if-slower")
