"""The layer beside its two bare matrix products, other packages and textbook forms: time and memory."""

import importlib.util
from contextlib import ExitStack

from benchmarks import markdown, peers, problem
from benchmarks.forms import WHATS
from benchmarks.measuring import Worker, interleaved, medians, paired_ratio

OURS = ("chain", "NetVLAD", "NetVLAD, masked")
TEXTBOOK = ("residual broadcast", "cluster loop")
# Of residuals (B, N, K, D), of which the textbook forms hold several at once, a training step up to six.
MOST_RESIDUAL_BYTES = 1e9
TITLE = "The layer"


def measure(quick, seconds):
    """Runs everything; returns a dict for JSON."""
    sizes = problem.TINY if quick else problem.SIZES
    left_out, rows = [], []
    limits = {"min_visits": 2, "visit_seconds": 0, "seconds": 0} if quick else {"seconds": seconds}
    with ExitStack() as stack:
        timed = {worker: stack.enter_context(worker) for worker in _workers(quick, left_out)}
        for size, shape in sizes.items():
            whole = {worker: (shape, _ours(worker)) for worker in timed}
            few = _few_videos(shape)
            forms = {"tensorflow": ("NetVLAD", *TEXTBOOK), "torch": ("NetVLAD", "patchnetvlad")}
            ported = {worker: (few, forms[worker.name]) for worker in timed if worker.name in forms}
            if any("patchnetvlad" in reason for reason in left_out):
                ported = {worker: given for worker, given in ported.items() if worker.name != "torch"}
            for group, given in (("packages", whole), ("ports", ported)):
                _make(given)
                for what in WHATS:
                    names = {worker: _names(worker, what, forms) for worker, (_, forms) in given.items()}
                    names = {worker: chosen for worker, chosen in names.items() if chosen}
                    times = medians(interleaved(names, **limits))
                    rows.append(
                        {
                            "size": size,
                            "shape": shape if group == "packages" else few,
                            "group": group,
                            "what": what,
                            "rounds": {name.replace(f"{what}/", ""): values for name, values in times.items()},
                        }
                    )
                    print(f"layer: {size}, {group}, {what}", flush=True)
    _add_memory(rows, quick)
    return {"left_out": left_out, "rows": rows}


def _workers(quick, left_out):
    """A worker for every framework that is here."""
    path = None
    try:
        path = peers.patchnetvlad_path(install=not quick)
    except peers.Absent as absent:
        left_out.append(str(absent))
    workers = [Worker("tensorflow", KERAS_BACKEND="tensorflow")]
    for backend in ("torch", "jax"):
        if importlib.util.find_spec(backend):
            extra = {"PYTHONPATH": str(path)} if path and backend == "torch" else {}
            workers.append(Worker(backend, KERAS_BACKEND=backend, **extra))
        else:
            left_out.append(f"{backend} is not installed")
    workers.append(Worker("onnxruntime", KERAS_BACKEND="tensorflow"))
    try:
        workers.append(Worker("addons", python=peers.addons_python(install=not quick)))
    except peers.Absent as absent:
        left_out.append(str(absent))
    return workers


def _ours(worker):
    return ("chain", "TensorFlow Addons") if worker.name == "addons" else OURS


def _few_videos(shape):
    num_videos, num_frames, feature_size, num_clusters = shape
    one = 4 * num_frames * feature_size * num_clusters
    return (max(1, min(num_videos, int(MOST_RESIDUAL_BYTES / one))), *shape[1:])


def _make(given):
    """All workers at once: most of it is importing and compiling."""
    for worker, (shape, forms) in given.items():
        function, backend = "benchmarks.forms:calls", {"addons": "tensorflow"}.get(worker.name, worker.name)
        arguments = {"backend": backend, "shape": shape, "forms": forms}
        if worker.name == "onnxruntime":
            function, arguments = "benchmarks.onnx_forms:calls", {"shape": shape, "forms": forms}
        worker.send(make=function, arguments=arguments)
    for worker in given:
        worker.receive()


def _names(worker, what, forms):
    return [] if worker.name == "onnxruntime" and what != "forward" else [f"{what}/{form}" for form in forms]


def _add_memory(rows, quick):
    """Adds `memory` to the rows: bytes that a call adds to its inputs, results included, from processes of their own.

    On TensorFlow and torch only; JAX and onnxruntime hold memory back between calls.
    """
    made = {}
    with ExitStack() as stack:
        for row in rows:
            row["memory"] = {}
            forms = {}
            for key in row["rounds"]:
                worker, form = key.split("/")
                if worker in ("tensorflow", "torch", "addons"):
                    forms.setdefault(worker, []).append(form)
            for name, chosen in forms.items():
                if name == "torch" and row["group"] == "packages":
                    continue
                if name not in made:
                    made[name] = stack.enter_context(_memory_worker(name)), None
                worker, last = made[name]
                if last != (row["size"], row["group"]):
                    _make({worker: (row["shape"], chosen)})
                    made[name] = worker, (row["size"], row["group"])
                for form in chosen:
                    row["memory"][f"{name}/{form}"] = worker.ask(memory=f"{row['what']}/{form}")
            if row["what"] == WHATS[-1]:
                print(f"layer: {row['size']}, {row['group']}, memory", flush=True)


def _memory_worker(name):
    if name == "addons":
        return Worker(name, python=peers.addons_python(install=False), memory=True)
    extra = {"PYTHONPATH": str(peers.patchnetvlad_path(install=False))} if name == "torch" else {}
    return Worker(name, memory=True, KERAS_BACKEND=name, **extra)


def _ratio(row, name, base):
    rounds = row["rounds"]
    return paired_ratio(rounds, name, base) if name in rounds and base in rounds else None


def tables(part):
    """The part as Markdown."""
    ours = "tensorflow/NetVLAD"
    chains, memory, addons, ports = [], [], [], []
    for row in part["rows"]:
        num_videos, num_frames, feature_size, num_clusters = row["shape"]
        used = row["memory"]
        if row["group"] == "packages":
            chain = "tensorflow/chain"
            cells = [row["size"], ", ".join(map(str, row["shape"])), row["what"]]
            cells.append(f"{1e3 * sorted(row['rounds'][chain])[len(row['rounds'][chain]) // 2]:.1f}")
            cells += [markdown.ratio(_ratio(row, f"tensorflow/{form}", chain)) for form in OURS[1:]]
            for backend in ("torch", "jax", "onnxruntime"):
                cells.append(markdown.ratio(_ratio(row, f"{backend}/NetVLAD", f"{backend}/chain")))
            chains.append(cells)
            needed = 4 * num_videos * num_clusters * (num_frames + feature_size)
            memory.append([row["size"], row["what"], f"{needed / 1e6:.1f}"])
            forms = [f"tensorflow/{form}" for form in OURS] + ["addons/TensorFlow Addons"]
            memory[-1] += [f"{used[form] / needed:.2f}" if form in used else "" for form in forms]
            peer = "addons/TensorFlow Addons"
            if peer in row["rounds"]:
                cells = [row["size"], row["what"], markdown.ratio(_ratio(row, peer, "addons/chain"))]
                addons.append([*cells, markdown.ratio(_ratio(row, peer, ours)), markdown.quotient(used, peer, ours)])
        else:
            cells = [row["size"], num_videos, row["what"]]
            compared = {f"tensorflow/{form}": ours for form in TEXTBOOK} | {"torch/patchnetvlad": "torch/NetVLAD"}
            for form, beside in compared.items():
                cells.append(markdown.ratio(_ratio(row, form, beside)))
            for form, beside in compared.items():
                cells.append(markdown.quotient(used, form, beside, 1))
            ports.append(cells)
    header = ["size", "B, N, D, K", "what", "TensorFlow's chain, ms", "NetVLAD / chain", "masked / chain"]
    text = markdown.table([*header, "on torch", "on JAX", "in onnxruntime"], chains)
    text += "\n\nMemory that a call adds, results included, over outputs and assignments (TensorFlow):\n\n"
    header = ["size", "what", "outputs + assignments, MB", "chain", "NetVLAD", "masked", "TensorFlow Addons"]
    text += markdown.table(header, memory)
    if addons:
        text += "\n\nTensorFlow Addons 0.23 on TensorFlow 2.15, beside its own chain and beside this layer:\n\n"
        header = ["size", "what", "its time / its chain", "its time / NetVLAD", "its memory / NetVLAD"]
        text += markdown.table(header, addons)
    text += (
        f"\n\nTextbook forms and `patchnetvlad`, at a batch whose residuals (B, N, K, D) take "
        f"{MOST_RESIDUAL_BYTES / 1e9:.0f} GB at most; time and memory over this layer's in the same framework:\n\n"
    )
    header = ["size", "B", "what", "residual broadcast", "cluster loop", "patchnetvlad"]
    text += markdown.table([*header, *(f"{name}, memory" for name in header[3:])], ports)
    return text + markdown.notes(part["left_out"])


def draw(part):
    """Bars: each package's time over the chain of its framework."""
    from matplotlib.figure import Figure

    compared = {
        "NetVLAD": ("tensorflow/NetVLAD", "tensorflow/chain"),
        "NetVLAD, masked": ("tensorflow/NetVLAD, masked", "tensorflow/chain"),
        "TensorFlow Addons": ("addons/TensorFlow Addons", "addons/chain"),
        "NetVLAD on torch": ("torch/NetVLAD", "torch/chain"),
        "NetVLAD on JAX": ("jax/NetVLAD", "jax/chain"),
        "NetVLAD in onnxruntime": ("onnxruntime/NetVLAD", "onnxruntime/chain"),
    }
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, what in zip(figure.subplots(2, 1, sharex=True), WHATS, strict=True):
        rows = [row for row in part["rows"] if row["what"] == what and row["group"] == "packages"]
        for index, (label, (name, base)) in enumerate(compared.items()):
            ratios = {place: _ratio(row, name, base) for place, row in enumerate(rows)}
            ratios = {place: values for place, values in ratios.items() if values}
            middles = [values[1] for values in ratios.values()]
            errors = [[middle - low, high - middle] for low, middle, high in ratios.values()]
            if ratios:
                places = [place + 0.13 * (index - 2.5) for place in ratios]
                axes.bar(places, middles, 0.13, label=label, yerr=list(zip(*errors, strict=True)))
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(ylabel="time / bare matrix products", title=what)
        axes.set_xticks(range(len(rows)), [row["size"] for row in rows])
    axes.figure.axes[0].legend(ncols=3, fontsize="small")
    return figure
