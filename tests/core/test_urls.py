import pytest

from petseg.core.urls import has_secrets, public_url, without_secrets


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
        ("http:/someone:secret@server", "http:/***@server"),
        (r"HTTP:\\someone:secret@server?secret", r"HTTP:\\***@server?***"),
        ("C:/photos/a@home", "C:/photos/a@home"),
    ],
)
def test_no_url_keeps_a_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert has_secrets(text) == (text != shown)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://server/my pets?token=secret", "http://server/my%20pets?***"),
        ("http://some one:sec ret@server/", "http://***@server/"),
        ("someone:secret@server:pets", "***@server:pets"),
        ("../my photos", "../my photos"),
        ("/home/a@b/photos: all?", "/home/a@b/photos: all?"),
    ],
)
def test_no_setting_keeps_a_secret(value: str, shown: str) -> None:
    assert public_url(value) == shown
    assert has_secrets(value) == (value != shown)
