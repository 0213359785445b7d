"""No password is ever printed, whoever quotes it."""

from __future__ import annotations

import pytest

from sequent_py.cli.masking import masked

SECRET = "p4ss/w@rd%3A"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot reach postgresql://ann:hunter2@db/shop", "cannot reach postgresql://ann:***@db/shop"),
        ("postgresql://ann:hun@ter2@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql+psycopg://ann:h:u@db", "postgresql+psycopg://ann:***@db"),
        ("host=db password=hunter2 user=ann", "host=db password=*** user=ann"),
        ("host=db password='hunter 2' user=ann", "host=db password=*** user=ann"),
        (
            "postgresql://db/shop?user=ann&password=hunter2&x=1",
            "postgresql://db/shop?user=ann&password=***&x=1",
        ),
        ("postgresql://ann@db/shop", "postgresql://ann@db/shop"),
        (
            "see https://example.org/a:b and mail ann@example.org",
            "see https://example.org/a:b and mail ann@example.org",
        ),
    ],
)
def test_connection_strings_are_recognised_by_their_form(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "known", ["postgresql://ann:hun@ter2@db/shop", "postgresql://ann:hun%40ter2@db/shop"]
)
@pytest.mark.parametrize("quoted", ["ter2@db", "hun@ter2", 'unknown host "ter2"'])
def test_pieces_of_a_known_password_are_replaced_wherever_they_show_up(known: str, quoted: str) -> None:
    assert "ter2" not in masked(quoted, (known,))


def test_a_password_in_key_value_form_is_known_too() -> None:
    assert masked("login failed with hunter2", ("host=db password='hunter2'",)) == "login failed with ***"


def test_short_pieces_do_not_garble_the_rest() -> None:
    assert masked("a table and a row", ("postgresql://ann:a@db/shop",)) == "a table and a row"
