"""Downloads of archives over a network that fails in every way. No request leaves this machine."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from petseg.core.files import sha256_file
from petseg.data import download as sources
from petseg.data.archives import ANNOTATIONS, PHOTOS
from petseg.data.download import ARCHIVES, CHECKSUMS, fetch
from petseg.errors import ArchiveError, DownloadError
from tests.support import MINI, ROOT
from tests.support.http_server import Server, closed_port
from tests.support.pets import PetFolder

SAMPLE = ROOT / "data/sample"
FETCH = (  # for a process of its own
    "import sys; from pathlib import Path; from petseg.data.download import fetch\n"
    "fetch(sys.argv[1], Path('data/sample'), Path(sys.argv[2]), Path(sys.argv[3]))"
)


def run(source: str, tmp_path: Path) -> list[sources.Retrieved]:
    return fetch(source, SAMPLE, tmp_path / "into", tmp_path / "root", backoff_s=0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_the_sample_is_copied(tmp_path: Path) -> None:
    retrieved = run("sample", tmp_path)
    assert [archive.name for archive in retrieved] == list(ARCHIVES)
    for archive in retrieved:
        assert sha256_file(tmp_path / "into" / archive.name) == archive.sha256
        assert (SAMPLE / archive.name).read_bytes() == (tmp_path / "into" / archive.name).read_bytes()


def test_a_relative_folder_counts_from_the_main_repository(tmp_path: Path, pets: PetFolder) -> None:
    pets.write()
    (tmp_path / "root").mkdir()
    run("../archives", tmp_path)
    assert names(tmp_path / "into") == {PHOTOS, ANNOTATIONS}


def test_a_url_is_downloaded(tmp_path: Path, server: Server) -> None:
    retrieved = run(f"{server.url}/pets/", tmp_path)
    assert retrieved[0].origin == f"{server.url}/pets/{PHOTOS}"
    assert names(tmp_path / "into") == {PHOTOS, ANNOTATIONS}
    assert names(tmp_path / "root/data/fetched/partial") == set()


def test_a_download_that_breaks_off_is_resumed(tmp_path: Path, server: Server) -> None:
    server.cut_after = [1000, 500]
    retrieved = run(server.url, tmp_path)
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-", None]
    assert retrieved[0].sha256 == sha256_file(server.folder / PHOTOS)


def test_the_next_call_resumes_a_failed_download(tmp_path: Path, server: Server) -> None:
    server.cut_after = [100] * 5
    with pytest.raises(DownloadError, match=r"can't download images.tar.gz .*5 tries; 500 bytes are kept"):
        run(server.url, tmp_path)
    assert names(tmp_path / "into") == set()
    server.ranges.clear()
    run(server.url, tmp_path)
    assert server.ranges[0] == "bytes=500-"
    assert names(tmp_path / "into") == {PHOTOS, ANNOTATIONS}


def test_a_download_without_a_checksum_is_not_resumed(tmp_path: Path, server: Server) -> None:
    (server.folder / CHECKSUMS).unlink()
    server.cut_after = [1000]
    run(server.url, tmp_path)
    assert server.ranges == [None, None, None]


def test_a_temporary_error_of_the_server_is_retried(tmp_path: Path, server: Server) -> None:
    server.status = [503, 500, 429]
    assert len(run(server.url, tmp_path)) == 2


def test_a_wrong_partial_file_is_discarded(tmp_path: Path, server: Server) -> None:
    server.cut_after = [1000] * 5
    with pytest.raises(DownloadError):
        run(server.url, tmp_path)
    (partial,) = (tmp_path / "root/data/fetched/partial").iterdir()
    partial.write_bytes(b"x" * 1000)
    assert run(server.url, tmp_path)[0].sha256 == sha256_file(server.folder / PHOTOS)


def test_a_complete_partial_file_needs_no_download(tmp_path: Path, server: Server) -> None:
    server.cut_after = [1000] * 5
    with pytest.raises(DownloadError):
        run(server.url, tmp_path)
    (partial,) = (tmp_path / "root/data/fetched/partial").iterdir()
    partial.write_bytes((server.folder / PHOTOS).read_bytes())
    run(server.url, tmp_path)
    assert names(tmp_path / "into") == {PHOTOS, ANNOTATIONS}


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path, server: Server) -> None:
    path = server.folder / PHOTOS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DownloadError, match="sha256 is"):
        run(server.url, tmp_path)
    with pytest.raises(ArchiveError, match="sha256 is"):
        run(str(server.folder), tmp_path)
    assert names(tmp_path / "into") == set()


def test_http_404_is_not_retried(tmp_path: Path, server: Server) -> None:
    (server.folder / PHOTOS).unlink()
    with pytest.raises(DownloadError, match=r"HTTP 404; 1 tries"):
        run(server.url, tmp_path)


def test_a_second_server_is_tried(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "OXFORD_URLS", (f"http://127.0.0.1:{closed_port()}", server.url))
    monkeypatch.setattr(
        sources, "OXFORD_SHA256", {name: sha256_file(server.folder / name) for name in ARCHIVES}
    )
    assert [archive.origin for archive in run("oxford", tmp_path)] == [
        f"{server.url}/{name}" for name in ARCHIVES
    ]


def test_an_absent_network_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "OXFORD_URLS", (f"http://127.0.0.1:{closed_port()}",) * 2)
    with pytest.raises(DownloadError) as error:
        run("oxford", tmp_path)
    assert "no connection; 5 tries" in str(error.value)
    assert "without a network use data.source: sample" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "data.source: nowhere: no such folder; allowed are sample, oxford"),
        ("ftp://host/pets", "only http and https"),
        (".", r"images.tar.gz: no such file"),
        ("http://[bad", r"data.source: http://\[bad: Invalid IPv6 URL"),
        ("http://a..b/x", "data.source: http://a..b/x"),
        ("~nobody-of-this-name/x", "data.source: ~nobody-of-this-name/x"),
    ],
)
def test_an_invalid_source_is_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(DownloadError, match=message):
        run(source, tmp_path)


def test_user_and_password_are_read_from_netrc(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.credentials = "someone:geheim"
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(DownloadError, match="HTTP 401"):
        run(server.url, tmp_path)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password geheim\n")
    (tmp_path / "netrc").chmod(0o600)
    run(server.url, tmp_path)
    assert names(tmp_path / "into") == {PHOTOS, ANNOTATIONS}
    assert all(
        b"geheim" not in path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file()
    )


def test_credentials_are_not_repeated(tmp_path: Path) -> None:
    secret = f"http://user:geheim@127.0.0.1:{closed_port()}/pets?token=geheim"
    with pytest.raises(DownloadError) as error:
        run(secret, tmp_path)
    assert "geheim" not in str(error.value)


def test_a_killed_download_leaves_only_a_partial_file(tmp_path: Path, server: Server) -> None:
    server.delay_s = 0.2
    kill_half_way(server, tmp_path)
    assert names(tmp_path / "into") == set()
    assert len(names(tmp_path / "root/data/fetched/partial")) == 1
    server.delay_s = 0
    run(server.url, tmp_path)
    assert any(requested for requested in server.ranges)
    assert names(tmp_path / "into") == {PHOTOS, ANNOTATIONS}
    assert sha256_file(tmp_path / "into" / PHOTOS) == sha256_file(server.folder / PHOTOS)


def kill_half_way(server: Server, tmp_path: Path) -> None:
    """Kill a process that fetches archives, after it has received some bytes."""
    command = [sys.executable, "-c", FETCH, server.url, str(tmp_path / "into"), str(tmp_path / "root")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    partials = tmp_path / "root/data/fetched/partial"
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in partials.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_archives_that_were_fetched_once_need_no_network(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(server.url, tmp_path)
    requests = len(server.ranges)
    shutil.rmtree(tmp_path / "into")  # DVC does that before the stage
    assert run(server.url, tmp_path) == first
    assert len(server.ranges) == requests, "the archives were requested again"
    assert "the checksums that it gave before are used" not in capsys.readouterr().err
    server.shutdown()
    server.server_close()
    shutil.rmtree(tmp_path / "into")
    assert run(server.url, tmp_path) == first
    assert "no connection; the checksums that it gave before are used" in capsys.readouterr().err
    assert sha256_file(tmp_path / "into" / PHOTOS) == sha256_file(server.folder / PHOTOS)


def test_known_archives_are_not_requested_again(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: sha256_file(server.folder / name) for name in ARCHIVES}
    monkeypatch.setattr(sources, "OXFORD_SHA256", known)
    monkeypatch.setattr(sources, "OXFORD_URLS", (server.url,))
    first = run("oxford", tmp_path)
    shutil.rmtree(tmp_path / "into")
    monkeypatch.setattr(requests.Session, "request", no_request)
    assert run("oxford", tmp_path) == first
    assert {name: sha256_file(tmp_path / "into" / name) for name in ARCHIVES} == known
    assert capsys.readouterr().err.count("warning") == 0


def no_request(session: requests.Session, method: str, url: str, **_: object) -> None:
    raise AssertionError(f"a request was sent to {url}")


def test_two_processes_fetch_an_archive_once(tmp_path: Path, server: Server) -> None:
    server.delay_s = 0.01
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, server.url, str(tmp_path / name), str(tmp_path / "root")],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        for name in ("one", "two")
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert server.ranges == [None, None], "an archive was fetched twice"
    for folder, name in itertools.product(("one", "two"), ARCHIVES):
        assert sha256_file(tmp_path / folder / name) == sha256_file(server.folder / name)


def test_a_kept_archive_that_differs_is_named_and_fetched_again(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(server.url, tmp_path)
    (kept,) = (tmp_path / "root/data/fetched").glob(f"*/{PHOTOS}")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert run(server.url, tmp_path) == first
    assert f"{kept}: differs from its sha256; it is fetched again" in capsys.readouterr().err
    assert sha256_file(kept) == sha256_file(tmp_path / "into" / PHOTOS) == first[0].sha256


def test_other_checksums_cause_a_new_download(tmp_path: Path, server: Server, pets: PetFolder) -> None:
    run(server.url, tmp_path)
    pets.extra["images/new.jpg"] = b"x"
    pets.write()
    sums = "".join(f"{sha256_file(pets.folder / name)}  {name}\n" for name in ARCHIVES)
    (pets.folder / CHECKSUMS).write_text(sums)
    assert run(server.url, tmp_path)[0].sha256 == sha256_file(pets.folder / PHOTOS)


def test_archives_without_checksums_are_not_kept(tmp_path: Path, server: Server) -> None:
    (server.folder / CHECKSUMS).unlink()
    run(server.url, tmp_path)
    assert [path.name for path in (tmp_path / "root/data/fetched").rglob("*.gz")] == []
    requests = len(server.ranges)
    run(server.url, tmp_path)
    assert len(server.ranges) == requests + 2


def test_a_failed_download_without_checksums_leaves_no_files(tmp_path: Path, server: Server) -> None:
    (server.folder / CHECKSUMS).unlink()
    server.cut_after = [1000] * 5
    with pytest.raises(DownloadError, match=r"5 tries\); without a network"):
        run(server.url, tmp_path)
    assert names(tmp_path / "root/data/fetched/partial") == set()


def test_a_killed_download_without_checksums_starts_again(tmp_path: Path, server: Server) -> None:
    (server.folder / CHECKSUMS).unlink()
    server.delay_s = 0.2
    kill_half_way(server, tmp_path)
    assert len(names(tmp_path / "root/data/fetched/partial")) == 1
    server.delay_s = 0
    run(server.url, tmp_path)
    assert names(tmp_path / "root/data/fetched/partial") == set()
    assert sha256_file(tmp_path / "into" / PHOTOS) == sha256_file(server.folder / PHOTOS)


def test_a_login_page_does_not_replace_kept_archives(tmp_path: Path, server: Server) -> None:
    first = run(server.url, tmp_path)
    (server.folder / CHECKSUMS).write_text("<html>log in first</html>")
    (server.folder / PHOTOS).write_text("<html>log in first</html>")
    with pytest.raises(DownloadError, match=r"can't download images.tar.gz"):
        run(server.url, tmp_path)
    server.shutdown()
    server.server_close()
    assert run(server.url, tmp_path) == first


@pytest.mark.skipif(not MINI.is_dir(), reason="the folder of original photos is not beside the checkout")
def test_the_folder_of_original_photos_is_a_source(tmp_path: Path) -> None:
    assert [archive.bytes for archive in run(str(MINI), tmp_path)] == [56_023_889, 1_542_694]
