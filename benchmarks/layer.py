"""The layer beside its two bare matrix products, other packages and textbook forms: time and memory."""

import importlib.util
from contextlib import ExitStack

from benchmarks import markdown, peers, problem
from benchmarks.forms import WHATS
from benchmarks.measuring import Worker, interleaved, medians, paired_ratio

OURS = ("chain", "NetVLAD", "NetVLAD, masked")
PACKAGES = {
    "tensorflow": (*OURS, "NetVLAD, bfloat16"),
    "xla": ("chain", "NetVLAD"),
    "addons": ("chain", "TensorFlow Addons"),
}
TEXTBOOK = ("residual broadcast", "cluster loop")
# Of residuals (B, N, K, D), of which the textbook forms hold several at once, a training step up to six.
MOST_RESIDUAL_BYTES = 1e9
TITLE = "The layer"


def measure(quick, seconds):
    """Runs everything; returns a dict for JSON."""
    sizes = problem.TINY if quick else problem.SIZES
    limits = {"min_visits": 2, "visit_seconds": 0, "seconds": 0} if quick else {"seconds": seconds}
    left_out, rows = [], []
    patchnetvlad, workers = _workers(install=not quick, left_out=left_out)
    ports = {"tensorflow": ("NetVLAD", *TEXTBOOK)} | ({"torch": ("NetVLAD", "patchnetvlad")} if patchnetvlad else {})
    with ExitStack() as stack:
        workers = [stack.enter_context(worker) for worker in workers]
        torch_memory = stack.enter_context(_torch("torch", patchnetvlad, memory=True))
        for size, shape in sizes.items():
            few = _few_videos(shape)
            groups = {
                "packages": (shape, {worker: PACKAGES.get(worker.name, OURS) for worker in workers}),
                "ports": (few, {worker: ports[worker.name] for worker in workers if worker.name in ports}),
            }
            for group, (shape, forms) in groups.items():
                _make(shape, forms)
                if group == "ports" and patchnetvlad:
                    _make(shape, {torch_memory: ports["torch"]})
                for what in WHATS:
                    names = {
                        worker: [f"{what}/{form}" for form in chosen]
                        for worker, chosen in forms.items()
                        if worker.name != "onnxruntime" or what == "forward"
                    }
                    rounds = medians(interleaved(names, **limits))
                    memory = _memory(what, forms, torch_memory if group == "ports" and patchnetvlad else None, ports)
                    rows.append(
                        {
                            "size": size,
                            "shape": shape,
                            "group": group,
                            "what": what,
                            "rounds": {name.replace(f"{what}/", ""): values for name, values in rounds.items()},
                            "memory": memory,
                        }
                    )
                    print(f"layer: {size}, {group}, {what}", flush=True)
    return {"left_out": left_out, "rows": rows}


def _workers(install, left_out):
    """The folder of patchnetvlad or `None`, and a worker for every framework that is here."""
    path = None
    try:
        path = peers.patchnetvlad_path(install)
    except peers.Absent as absent:
        left_out.append(str(absent))
    workers = [Worker(name, KERAS_BACKEND="tensorflow") for name in ("tensorflow", "xla", "onnxruntime")]
    for backend in ("torch", "jax"):
        if importlib.util.find_spec(backend) is None:
            left_out.append(f"{backend} is not installed")
        else:
            workers.append(_torch("torch", path) if backend == "torch" else Worker("jax", KERAS_BACKEND="jax"))
    try:
        workers.append(Worker("addons", python=peers.addons_python(install)))
    except peers.Absent as absent:
        left_out.append(str(absent))
    return path, workers


def _torch(name, path, memory=False):
    extra = {"PYTHONPATH": str(path)} if path else {}
    return Worker(name, memory=memory, KERAS_BACKEND="torch", **extra)


def _make(shape, forms):
    """All workers at once: most of it is importing and compiling."""
    for worker, chosen in forms.items():
        if worker.name == "onnxruntime":
            worker.send(make="benchmarks.onnx_forms:calls", arguments={"shape": shape, "forms": chosen})
        else:
            backend = "tensorflow" if worker.name == "addons" else worker.name
            arguments = {"backend": backend, "shape": shape, "forms": chosen}
            worker.send(make="benchmarks.forms:calls", arguments=arguments)
    for worker in forms:
        worker.receive()


def _memory(what, forms, torch_memory, ports):
    """Bytes that a call adds to its inputs at its highest, results included.

    TensorFlow counts them itself; torch's are seen from outside, in a process of its own. Not on JAX and in
    onnxruntime, which count nothing and keep what they have freed.
    """
    counted = {worker: chosen for worker, chosen in forms.items() if worker.name in ("tensorflow", "addons")}
    if torch_memory:
        counted[torch_memory] = ports["torch"]
    memory = {}
    for worker, chosen in counted.items():
        counter = f"benchmarks.backends.on_{'torch' if worker is torch_memory else 'tensorflow'}:added_bytes"
        for form in chosen:
            memory[f"{worker.name}/{form}"] = worker.ask(memory=f"{what}/{form}", counter=counter)
    return memory


def _few_videos(shape):
    num_videos, num_frames, feature_size, num_clusters = shape
    one = 4 * num_frames * feature_size * num_clusters
    return (max(1, min(num_videos, int(MOST_RESIDUAL_BYTES / one))), *shape[1:])


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
            cells += [markdown.ratio(_ratio(row, f"tensorflow/{form}", chain)) for form in PACKAGES["tensorflow"][1:]]
            for backend in ("xla", "torch", "jax", "onnxruntime"):
                cells.append(markdown.ratio(_ratio(row, f"{backend}/NetVLAD", f"{backend}/chain")))
            chains.append(cells)
            needed = 4 * num_videos * num_clusters * (num_frames + feature_size)
            memory.append([row["size"], row["what"], f"{needed / 1e6:.1f}"])
            forms = [f"tensorflow/{form}" for form in PACKAGES["tensorflow"]] + ["addons/TensorFlow Addons"]
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
    header += ["bfloat16 / float32 chain", "by XLA", "on torch", "on JAX", "in onnxruntime"]
    text = markdown.table(header, chains)
    text += "\n\nMemory that a call adds, results included, over outputs and assignments (TensorFlow):\n\n"
    header = ["size", "what", "outputs + assignments, MB", "chain", "NetVLAD", "masked", "bfloat16"]
    header.append("TensorFlow Addons")
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
        "NetVLAD, bfloat16": ("tensorflow/NetVLAD, bfloat16", "tensorflow/chain"),
        "NetVLAD by XLA": ("xla/NetVLAD", "xla/chain"),
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
                places = [place + 0.1 * (index - 3.5) for place in ratios]
                axes.bar(places, middles, 0.1, label=label, yerr=list(zip(*errors, strict=True)))
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(ylabel="time / bare matrix products", title=what)
        axes.set_xticks(range(len(rows)), [row["size"] for row in rows])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), ncols=4, fontsize="small", loc="outside upper center")
    return figure
