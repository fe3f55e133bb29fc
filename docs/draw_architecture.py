"""Draw docs/architecture.svg: which room of the package imports which. The tests of the layers read imports by it too.

The rooms and their order are those of the table in docs/architecture.md.
"""

import ast
import html
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
ROOMS: dict[str, str] = dict(
    re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.M)
)
"""What each folder or module of the package is for, by name, top first: a room imports those below it."""
LAYERS = tuple(ROOMS)

WIDTH, HEIGHT, ROW, LEFT, LANE = 700, 34, 52, 20, 18
STYLE = """
    text { fill: #222; } .purpose { fill: #555; font-size: 13px; }
    rect.room { fill: #e8f0fb; stroke: #4a78b5; stroke-width: 1.5; }
    path.down { fill: none; stroke: #555; stroke-width: 1.4; marker-end: url(#down); }
    path.back { fill: none; stroke: #c22; stroke-width: 2; marker-end: url(#back); }
"""


def find_modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the file of every module of the package by the module's dotted name."""
    paths = sorted((root / "bsssl").rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def read_imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, in functions and for type checkers alone included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "bsssl")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module is not None and node.module.split(".")[0] == "bsssl":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in modules else node.module for name in names)


def layer_of(module: str) -> str:
    """Return the folder or module of the package that ``module`` belongs to; nothing for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def points_down(importer: str, imported: str) -> bool:
    """Return whether a module may import another: of its own layer or of one below."""
    return LAYERS.index(layer_of(importer)) <= LAYERS.index(layer_of(imported))


def room_imports() -> dict[str, list[str]]:
    """Return the rooms that each room of the package imports, top first."""
    modules = find_modules()
    imports: dict[str, set[str]] = defaultdict(set)
    for module, path in modules.items():
        imports[layer_of(module)] |= {layer_of(name) for name in read_imports(path, modules)}
    here = [room for room in LAYERS if room in imports]
    return {room: [other for other in here if other in imports[room] - {room}] for room in here}


def arrows(imports: dict[str, list[str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the arrows down that no others lead to already, and those that point back up."""
    rooms = list(imports)
    down = {room: [other for other in imports[room] if rooms.index(other) > rooms.index(room)] for room in rooms}
    below: dict[str, set[str]] = {}
    for room in reversed(rooms):
        below[room] = set(down[room]).union(*(below[other] for other in down[room]))
    direct = [
        (room, other)
        for room in rooms
        for other in down[room]
        if not any(other in below[between] for between in down[room])
    ]
    return direct, [(room, other) for room in rooms for other in imports[room] if other not in down[room]]


def draw(imports: dict[str, list[str]]) -> str:
    """Return the picture: the rooms in a column, arrows between neighbours in it and all others beside it."""
    tops = {room: 16 + number * ROW for number, room in enumerate(imports)}
    direct, back = arrows(imports)
    shapes, lanes = [], _lanes([arrow for arrow in direct + back if abs(tops[arrow[0]] - tops[arrow[1]]) > ROW], tops)
    for room, top in tops.items():
        title = f"{room} imports {', '.join(imports[room]) or 'no other room'}"
        shapes += [
            f"<g><title>{title}</title>",
            f'  <rect class="room" x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'  <text x="{LEFT + 14}" y="{top + 22}">{room}</text>',
            f'  <text class="purpose" x="{LEFT + 120}" y="{top + 22}">{html.escape(ROOMS[room])}</text></g>',
        ]
    for room, other in direct + back:
        kind, start, end = "back" if (room, other) in back else "down", tops[room], tops[other]
        if (room, other) in lanes:
            edge, out = LEFT + WIDTH, LEFT + WIDTH + LANE * lanes[room, other]
            y, to = start + HEIGHT * 2 // 3, end + HEIGHT // 3
            bend = 8 if to > y else -8
            path = f"M{edge} {y}H{out - 8}q8 0 8 {bend}V{to - bend}q0 {bend} -8 {bend}H{edge + 2}"
        elif end > start:
            path = f"M{LEFT + 50} {start + HEIGHT}V{end - 2}"
        else:
            path = f"M{LEFT + 80} {start}V{end + HEIGHT + 2}"
        shapes.append(f'<path class="{kind}" d="{path}"><title>{room} imports {other}</title></path>')
    width = LEFT * 2 + WIDTH + LANE * max(lanes.values(), default=0)
    height = 16 + ROW * len(tops)
    markers = "".join(
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 10 5 0 10z" fill="{colour}"/></marker>'
        for name, colour in (("down", "#555"), ("back", "#c22"))
    )
    box = f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, f"<defs>{markers}<style>{STYLE}</style></defs>", ground, *shapes, "</svg>"]) + "\n"


def _lanes(beside: list[tuple[str, str]], tops: dict[str, int]) -> dict[tuple[str, str], int]:
    """Return how far out each arrow beside the column runs, the shortest first, so that none lies on another."""
    lanes: dict[tuple[str, str], int] = {}
    spans = {arrow: sorted(tops[room] for room in arrow) for arrow in beside}
    for arrow in sorted(beside, key=lambda arrow: spans[arrow][1] - spans[arrow][0]):
        taken = {
            lanes[other] for other in lanes if spans[other][0] <= spans[arrow][1] and spans[arrow][0] <= spans[other][1]
        }
        lanes[arrow] = next(lane for lane in range(1, len(beside) + 1) if lane not in taken)
    return lanes


if __name__ == "__main__":
    PICTURE.write_text(draw(room_imports()))
