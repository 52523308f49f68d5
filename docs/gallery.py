"""The gallery of tutorials: a thumbnail, a run time and a notebook to download for each lesson.

`python docs/gallery.py HTML` takes thumbnails and times from pages that Sphinx has built in the
folder HTML and writes them to `docs/pictures/tutorials/`; what was not executed there is left.
`docs/conf.py` makes the page and the notebooks.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
PICTURES = HERE / "pictures" / "tutorials"
SECONDS = PICTURES / "seconds.json"
WIDTH = 320
"""Pixels of a thumbnail."""

_HEAD = """# Tutorials

Lessons in an order: the first is for everyone, the last for those who want to know how ppgen works.
Times are those of one run on two cores, compilation included.

`````{container} gallery
"""
_LESSON = """
````{{container}} lesson
[![{title}](pictures/tutorials/{name}.png)](tutorials/{name})

**[{title}](tutorials/{name})**

{about}

{seconds} · {{download}}`notebook <notebooks/{name}.ipynb>`
````
"""


def lessons(folder: Path) -> list[Path]:
    """The tutorials, in their order."""
    return sorted(folder.glob("[0-9]*.py"))


def title_and_about(path: Path) -> tuple[str, str]:
    """The title of a lesson, and the first two sentences of its text."""
    cells = path.read_text(encoding="utf-8").split("# %% [markdown]\n")
    lines = [line.removeprefix("#").removeprefix(" ") for line in cells[1].splitlines()]
    text = "\n".join(lines).split("\n\n")
    sentences = re.split(r"(?<=[.?!]) ", " ".join(text[1].split()))
    return text[0].removeprefix("# ").strip(), " ".join(sentences[:2])


def page(folder: Path) -> str:
    """The gallery in Markdown."""
    seconds = json.loads(SECONDS.read_text())
    found = [_HEAD]
    for path in lessons(folder):
        title, about = title_and_about(path)
        time = f"{seconds.get(path.stem, '?')} s"
        found.append(_LESSON.format(title=title, about=about, name=path.stem, seconds=time))
    return "".join([*found, "`````\n"])


def write_notebooks(folder: Path, out: Path) -> None:
    """Writes each tutorial as a notebook, without outputs."""
    import jupytext

    out.mkdir(exist_ok=True)
    for path in lessons(folder):
        jupytext.write(jupytext.read(path, fmt="py:percent"), out / f"{path.stem}.ipynb")


def record(html: Path) -> None:
    """Takes thumbnails and times from built pages."""
    from myst_nb.sphinx_ import NbMetadataCollector
    from PIL import Image

    env = pickle.loads((html / ".doctrees" / "environment.pickle").read_bytes())
    PICTURES.mkdir(exist_ok=True)
    before, seconds = json.loads(SECONDS.read_text()) if SECONDS.is_file() else {}, {}
    for name in sorted(doc for doc in env.all_docs if doc.startswith("tutorials/")):
        ran = NbMetadataCollector.get_exec_data(env, name)
        lesson = Path(name).name
        if not ran or not ran["succeeded"]:
            if lesson not in before:
                raise SystemExit(f"{name} was not executed")
            seconds[lesson] = before[lesson]
            continue
        seconds[lesson] = round(ran["runtime"])
        built = (html / f"{name}.html").read_text(encoding="utf-8")
        picture = re.findall(r'src="\.\./(_images/[^"]+\.png)"', built)[-1]  # the last says most
        image = Image.open(html / picture).convert("RGB")
        image.thumbnail((WIDTH, WIDTH))
        image.quantize(32).save(PICTURES / f"{lesson}.png", optimize=True)
    SECONDS.write_text(json.dumps(seconds, indent=2) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
