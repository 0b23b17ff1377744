"""In words, what makes an instance different from the others of its template."""

from __future__ import annotations

from nnkernels.compile.instance import Instance
from nnkernels.config import rows

# Template parameters by position, those that are read here.
_ROW_TEMPLATES = {
    "SoftmaxForward": {"layout": 5, "n": 7, "threads": 9, "team": 10, "keep": 11, "stage": 13},
    "SoftmaxBackward": {"layout": 5, "n": 7, "threads": 9, "team": 10, "keep": 11, "stage": 13},
    "RowSum": {"layout": 4, "n": 6, "threads": 8, "team": 9, "stage": 10},
    "NormForward": {"layout": 9, "n": 11, "threads": 13, "team": 14, "keep": 15, "stage": 17},
    "NormBackward": {"layout": 6, "n": 8, "threads": 10, "team": 11, "keep": 12, "stage": 14},
    "GroupNormBackward": {"layout": 5, "n": 7, "threads": 9, "team": 10, "keep": 11, "stage": 12},
    "NormSums": {"layout": 8, "n": 10, "threads": 12, "team": 13, "stage": 14},
}
_KEEP = {
    rows.KEEP_NONE: "row read again",
    rows.KEEP_REGISTERS: "row in registers",
    rows.KEEP_SHARED: "row in shared memory",
    rows.KEEP_EXP: "row in scratch memory",
}
# How an operand comes to shared memory: see nnkernels/config/matmul_tensor.py.
_WAYS = (
    "terms copied",
    "rows copied",
    "terms by vectors",
    "rows by vectors",
    "single terms",
    "single rows",
)
# Launches of a channel: see cuda_src/nnk/channel_team.cuh.
_CHANNEL_STAGES = (
    "{who}, whole channels",
    "{who}, statistics",
    "{who}, statistics of parts",
    "warp, folds parts",
    "{who}, result of parts",
)
_STAGES = ("", "parts of rows", "rows of parts")


def kind_of(instance: Instance, warp: int) -> str:
    """A short description: ``"warp, row in registers"``, ``"4 elements at once"``.

    >>> geometry = "RowGeometry<2, 1, 1, int32>, 0, Ints<1, 1>"
    >>> kernel = f"RowSum<float, float, float, {geometry}, 4, 1, 128, 32, 0>"
    >>> kind_of(Instance("row_sum", kernel, 128), 32)
    'warp'
    """
    name, arguments = template_arguments(instance.kernel)
    if name in _ROW_TEMPLATES:
        return _row_kind(_ROW_TEMPLATES[name], arguments, warp)
    if name == "Elementwise":
        rank = "" if arguments[7] == "1" else f", {arguments[7]} axes"
        return f"{arguments[5]} elements, {arguments[6]} at once{rank}"
    if name == "MatmulSimt":
        teams = "" if arguments[11] == "1" else f", {arguments[11]} at once"
        return f"tile {arguments[6]}x{arguments[7]}x{arguments[8]}{teams}{_form(arguments[-1])}"
    if name == "MatmulTensor":
        tile, warp_tile = "x".join(arguments[7:10]), "x".join(arguments[10:12])
        ways = " and ".join(_way(*map(int, arguments[at : at + 2])) for at in (13, 15))
        return f"{arguments[6]}, tile {tile}, warps of {warp_tile}, {arguments[12]} stages, {ways}"
    if name in ("MlpForward", "MlpBackward"):
        math, sizes = template_arguments(arguments[4])
        first = 2 if math == "MlpTensor" else 1
        kept = "all weights" if sizes[-1] == "true" else f"slices of {sizes[first + 2]} terms"
        atom = f"{sizes[1]}, " if math == "MlpTensor" else ""
        return f"{atom}tile {'x'.join(sizes[first : first + 2])}, {kept} in shared memory"
    if name == "MatmulSplits":
        shared = "" if arguments[7] == "1" else f", {arguments[7]} threads for each"
        return f"sums of splits, {arguments[4]} at once{shared}"
    if name == "ChannelsLast":
        where = ", of listed taps" if len(arguments) > 4 else ""
        return f"channels side by side, {arguments[2]} pixels at once{where}"
    if name == "Zeros":
        return "zeros"
    if name == "ConvJoinedWeights":
        return "weights of phases that are joined"
    if name == "GemvAlong":
        team = "warp" if arguments[8] != arguments[7] else f"block of {arguments[7]}"
        return f"{team} for {arguments[9]} sums along memory"
    if name == "GemvAcross":
        return f"{int(arguments[7]) // int(arguments[8])} slices of terms, sums across memory"
    if name in ("PoolWindows", "PoolGather"):
        adaptive = ", adaptive" if arguments[7] == "true" else ""
        return f"{arguments[0]}, {arguments[5]} at once, {arguments[6]}{adaptive}"
    if name.startswith("PoolBands"):
        vector, kept, index = arguments[-3:]
        mode = "PoolMax" if name == "PoolBandsMaxima" else arguments[0]
        return f"{mode}, {vector} at once, {kept} rows, {index}"
    if name in ("GatherMove", "GatherSum"):
        elements = arguments[1 if name == "GatherMove" else 2]
        return f"{elements} elements, {int(arguments[3]) + int(arguments[4])} axes"
    if name.startswith("GridSample"):
        places = {"GridSample": 8, "GridSampleBackwardGrid": 7, "GridSampleBackwardX": 6}
        return f"{arguments[4].removeprefix('grid_')}, tiles of {arguments[places[name]]} points"
    if name.startswith("BatchNorm"):
        layout, (threads, team), stage = arguments[-9], arguments[-5:-3], int(arguments[-2])
        who = f"block of {threads}" if int(layout) != rows.ACROSS else f"{team} threads a column"
        return _CHANNEL_STAGES[stage].format(who=who)
    return "-"


def _way(way: int, alignment: int) -> str:
    """How an operand comes to shared memory, and by how many bytes if that is not 16."""
    name = _WAYS[way]
    if alignment == 16 or name.startswith("single"):
        return name
    return f"{name}, {f'{alignment} bytes' if name.endswith('copied') else 'not aligned'}"


def _form(form: str) -> str:
    """Of a product over windows: what pixels are to it."""
    if not form.startswith("ConvTiles"):
        return ""
    pixels, channels_fast, scattered, _ = template_arguments(form)[1]
    more = ", channels adjacent" * (channels_fast == "true") + ", scattered" * (scattered == "true")
    return f", {pixels.replace('_', ' ')}{more}"


def _row_kind(places: dict[str, int], arguments: list[str], warp: int) -> str:
    at = {name: int(arguments[place]) for name, place in places.items()}
    threads, team = at["threads"], at["team"]
    if at["layout"] == rows.ACROSS:
        who = f"{team} threads a column"
    elif team == threads:
        who = f"block of {threads}"
    else:
        who = "warp" if team == warp else f"{team} lanes"
    stage = _STAGES[at["stage"]]
    kept = "" if "keep" not in at or stage else _KEEP[at["keep"]]
    return ", ".join(part for part in (who, kept, stage) if part)


def template_arguments(kernel: str) -> tuple[str, list[str]]:
    """Name and arguments of a C++ template instance.

    >>> template_arguments("Elementwise<Relu, Types<float, half>, 4>")
    ('Elementwise', ['Relu', 'Types<float, half>', '4'])
    """
    name, _, rest = kernel.partition("<")
    arguments, depth = [""], 0
    for character in rest.rpartition(">")[0]:
        depth += (character == "<") - (character == ">")
        if character == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += character
    return name, [argument.strip() for argument in arguments]
