"""What the pages of a PDF say, as Chromium writes them: to see on which page something was printed."""

from __future__ import annotations

import re
import zlib

Letters = dict[int, str]
Objects = dict[int, tuple[bytes, bytes]]  # number -> dictionary, and what its stream holds


def pages(pdf: bytes) -> list[str]:
    """Return the text of each page, a line for each piece that was drawn."""
    objects: Objects = {}
    for number, body in re.findall(rb"(\d+) 0 obj\s*(.*?)endobj", pdf, re.DOTALL):
        head, _, rest = body.partition(b"stream")
        held = rest.rpartition(b"endstream")[0].lstrip(b"\r\n")
        objects[int(number)] = head, zlib.decompress(held) if b"FlateDecode" in head else held
    heads = [head for _, (head, _) in sorted(objects.items())]
    return [_text(objects, head) for head in heads if re.search(rb"/Type\s*/Page\b", head)]


def _text(objects: Objects, page: bytes) -> str:
    fonts = {font: _letters(objects, int(number)) for font, number in re.findall(rb"/(F\d+) (\d+) 0 R", page)}
    content = b"".join(objects[int(number)][1] for number in re.findall(rb"/Contents (\d+) 0 R", page))
    text, letters = "", Letters()
    for font, drawn, end in re.findall(rb"/(F\d+) [\d.]+ Tf|<([0-9A-Fa-f]+)>|(\bET\b)", content):
        letters = fonts[font] if font else letters
        text += (
            "\n" if end else "".join(letters.get(int(code, 16), "?") for code in re.findall(rb"....", drawn))
        )
    return text


def _letters(objects: Objects, font: int) -> Letters:
    """Return code -> what it stands for."""
    named = re.search(rb"/ToUnicode (\d+) 0 R", objects[font][0])
    table = objects[int(named[1])][1] if named else b""
    letters = Letters()
    for first, last, meant in re.findall(rb"<(\w+)>\s*<(\w+)>\s*<(\w+)>", table):
        letters |= {
            n: chr(int(meant, 16) + n - int(first, 16)) for n in range(int(first, 16), int(last, 16) + 1)
        }
    for part in re.findall(rb"beginbfchar(.*?)endbfchar", table, re.DOTALL):
        each = re.findall(rb"<(\w+)>\s*<(\w+)>", part)
        letters |= {int(code, 16): bytes.fromhex(meant.decode()).decode("utf-16-be") for code, meant in each}
    return letters
