"""The sources of data and weights: what is present, how to get it, and downloads where they are allowed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets.unpacking import unpack
from bench.errors import DataError, UserError, near_miss
from bench.storage.files import file_hash
from bench.toolkit.progress import track

_CHUNK = 1 << 18  #: bytes


@dataclass(frozen=True)
class Remote:
    """A file that may be downloaded."""

    url: str
    target: str  #: path below the data folder; a folder if `unpack`
    sha256: str  #: of the download; empty if there is no trusted hash and the user must supply one
    unpack: bool = False  #: a tar archive with one folder, whose content becomes `target`

    @property
    def name(self) -> str:
        """The file's own name."""
        return f"{Path(self.target).parent.name}.tgz" if self.unpack else Path(self.target).name


@dataclass(frozen=True)
class Source:
    """A data set or weights that the paper's protocol uses."""

    name: str
    what: str
    places: tuple[str, ...]  #: paths below the data folder
    how: str
    licence: str
    remotes: tuple[Remote, ...] = ()  #: empty: only its owners may distribute it


# Sources of the hashes: LFW's are scikit-learn's (sklearn.datasets._lfw), which downloads the same files; AlexNet's
# begins with the digits that torchvision puts into the file name; FaceNet's is in the manifests of several independent
# projects.
SOURCES = {
    source.name: source
    for source in (
        Source(
            "lfw",
            "LFW (Huang et al. 2007): 13,233 photographs of 5,749 people, and View 2's 6,000 pairs",
            ("lfw/images", "lfw/pairs.txt"),
            "veilbench data fetch lfw",
            "for research; cite Huang et al. 2007",
            (
                Remote(
                    "https://ndownloader.figshare.com/files/5976018",
                    "lfw/images",
                    "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
                    unpack=True,
                ),
                Remote(
                    "https://ndownloader.figshare.com/files/5976006",
                    "lfw/pairs.txt",
                    "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
                ),
            ),
        ),
        Source(
            "cfp",
            "CFP (Sengupta et al. 2016): 7,000 photographs of 500 people with 30 points each, and its two protocols",
            ("cfp/Data/Images", "cfp/Data/Fiducials", "cfp/Data/list_name.txt", "cfp/Protocol"),
            "ask its authors (cfpw.io): cfp-dataset in a folder named cfp",
            "for research, by its authors' terms",
        ),
        Source(
            "cfp_fp",
            "CFP-FP (Sengupta et al. 2016): 7,000 frontal-profile pairs, as insightface packs them",
            ("cfp_fp.bin",),
            "ask its authors (cfpw.io), or take cfp_fp.bin from insightface's dataset zoo; put it there",
            "for research, by its authors' terms",
        ),
        Source(
            "agedb_30",
            "AgeDB-30 (Moschoglou et al. 2017): 6,000 pairs 30 years apart, as insightface packs them",
            ("agedb_30.bin",),
            "ask its authors (ibug.doc.ic.ac.uk), or take agedb_30.bin from insightface's dataset zoo; put it there",
            "for research, by its authors' terms",
        ),
        Source(
            "celeba",
            "CelebA (Liu et al. 2015): 202,599 photographs, on which the paper's attackers learn",
            ("celeba",),
            "mmlab.ie.cuhk.edu.hk/projects/CelebA.html: img_celeba in a folder of that name",
            "non-commercial research, by its authors' agreement",
        ),
        Source(
            "casia_webface",
            "CASIA-WebFace (Yi et al. 2014): 494,414 photographs of 10,575 people, on which the shadows learn",
            ("casia_webface",),
            "apply to CASIA; a folder of PERSON/IMAGE.jpg",
            "non-commercial research, by application",
        ),
        Source(
            "facenet",
            "FaceNet: Inception-ResNet-v1 of facenet-pytorch, trained on VGGFace2",
            ("weights/20180402-114759-vggface2.pt",),
            "veilbench data fetch facenet",
            "MIT (facenet-pytorch)",
            (
                Remote(
                    "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
                    "weights/20180402-114759-vggface2.pt",
                    "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
                ),
            ),
        ),
        Source(
            "lpips",
            "AlexNet's features, the backbone of LPIPS",
            ("weights/alexnet-owt-7be5be79.pth",),
            "veilbench data fetch lpips, then set metrics.lpips_backbone to it",
            "BSD-3 (torchvision)",
            (
                Remote(
                    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
                    "weights/alexnet-owt-7be5be79.pth",
                    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
                ),
            ),
        ),
    )
}


def data_folder(given: Path | None = None) -> Path:
    """The data folder: the argument, or VEILBENCH_DATA.

    Raises:
        UserError: neither is set.
    """
    named = given or (Path(os.environ["VEILBENCH_DATA"]) if os.environ.get("VEILBENCH_DATA") else None)
    if named is None:
        raise UserError("no data folder: set the environment variable VEILBENCH_DATA, or pass --into FOLDER")
    return named.expanduser()


def status(folder: Path) -> list[dict[str, Any]]:
    """The status of every source, as JSON-able dicts."""
    return [
        {
            "name": source.name,
            "what": source.what,
            "found": all((folder / place).exists() for place in source.places),
            "places": [_place(folder / place, source) for place in source.places],
            "how": source.how,
            "may_fetch": bool(source.remotes),
            "licence": source.licence,
        }
        for source in SOURCES.values()
    ]


def _place(path: Path, source: Source) -> dict[str, Any]:
    """The status of one path. A folder's hash covers names and sizes only, because reading half a million files is
    slow.
    """
    found: dict[str, Any] = {"path": str(path), "found": path.exists()}
    if path.is_file():
        found["sha256"] = file_hash(path)
        known = next((r.sha256 for r in source.remotes if path.match(r.target) and not r.unpack), "")
        if known:
            found["as_published"] = found["sha256"] == known
    elif path.is_dir():
        total, count = hashlib.sha256(), 0
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\n".encode())
            count += 1
        found |= {"files": count, "sha256_of_names_and_sizes": total.hexdigest()}
    return found


def find(name: str) -> Source:
    """The source with that name.

    Raises:
        UserError: there is none; suggests the nearest name.
    """
    if name not in SOURCES:
        raise UserError(f"unknown data {name!r}.{near_miss(name, SOURCES)}")
    return SOURCES[name]


def fetch(source: Source, folder: Path, *, mirror: str = "", sha256: str = "") -> list[Path]:
    """Downloads the missing files of a source; an interrupted download resumes.

    Args:
        mirror: a URL under which the files have their own names, to use instead of the original location.
        sha256: the expected hash, if none is known or the mirror's file differs; for sources of one file.

    Raises:
        UserError: the source may not be downloaded, or no hash is known or given.
        DataError: no network, an interrupted transfer, a wrong hash, or a different file in its place.
    """
    if not source.remotes:
        raise UserError(f"{source.name} may not be downloaded by this program: {source.how}; licence: {source.licence}")
    if sha256 and len(source.remotes) > 1:
        raise UserError(f"{source.name} consists of {len(source.remotes)} files, so one --sha256 is not enough")
    written = []
    for remote in source.remotes:
        known = (sha256 or remote.sha256).lower()
        if not known:
            raise UserError(f"no hash is known for {remote.url}: pass one that you trust with --sha256 HASH")
        target = folder / remote.target
        if target.exists() and not remote.unpack and file_hash(target) != known:
            raise DataError(
                f"{target}: already exists, with another sha256 than {known}; move it away to fetch the file"
            )
        if not target.exists():
            url = f"{mirror.rstrip('/')}/{remote.name}" if mirror else remote.url
            _retrieve(url, known, remote, target)
        written.append(target)
    return written


def _retrieve(url: str, sha256: str, remote: Remote, target: Path) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{remote.name}.part")
    try:
        got = Path(
            pooch.retrieve(url, f"sha256:{sha256}", fname=remote.name, path=target.parent, downloader=_resuming(part))
        )
    except requests.HTTPError as error:
        raise DataError(f"the server refuses: {error}") from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if part.exists():
            raise DataError(
                f"{url}: the transfer stopped after {part.stat().st_size} bytes; run the same command to resume"
            ) from error
        raise DataError(
            f"{url}: cannot be reached; without a network, download it elsewhere and copy it to {target}"
        ) from error
    except ValueError as error:  # pooch's exception for a wrong hash; it has already deleted the file
        raise DataError(f"{url}: the downloaded file does not have the sha256 {sha256}; deleted ({error})") from error
    if remote.unpack:
        unpack(got, target)
        got.unlink()


def _resuming(part: Path) -> Callable[[str, str, Any], None]:
    """A downloader for pooch that resumes an interrupted transfer."""

    def download(url: str, output_file: str, _pooch: Any) -> None:
        import requests

        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, stream=True, timeout=30, headers=headers) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink()  # the partial file is not the start of this file
                raise requests.ConnectionError("the partial file does not match")
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                have = 0  # the server cannot resume, so it starts over
            length = response.headers.get("Content-Length")
            whole = have + int(length) if length else None
            steps = -(-int(length) // _CHUNK) if length else 1
            with part.open("ab" if have else "wb") as file:
                for chunk in track(response.iter_content(_CHUNK), f"fetching {part.stem}", steps):
                    file.write(chunk)
        if whole is not None and part.stat().st_size != whole:
            raise requests.ConnectionError(f"received {part.stat().st_size} of {whole} bytes")
        shutil.move(part, output_file)

    return download
