import pytest

from petseg.core.urls import has_secrets, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://server:5000 is away", "http://server:5000 is away"),
        ("http://someone:secret@server:5000/", "http://***@server:5000/"),
        ("http://someone:with@secret@server", "http://***@server"),
        ("can't reach https://secret@server: 401", "can't reach https://***@server: 401"),
        ("https://server/pets?token=secret", "https://server/pets?***"),
        ("https://server/pets?user=a@secret&x=1 and more", "https://*** and more"),
        ("http://someone:sec?ret@server/", "http://***"),
        ("'ftp://someone:secret@server/a', 'b'", "'ftp://***@server/a', 'b'"),
        ("sqlite:////home/me/c#/mlflow.db", "sqlite:////home/me/c#/mlflow.db"),
        ("../photos?", "../photos?"),
    ],
)
def test_no_url_keeps_a_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert has_secrets(text) == (text != shown)
