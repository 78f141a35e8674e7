"""The arguments of the command line."""

import argparse
import json
from typing import Any

from keras_netvlad.cli import commands
from keras_netvlad.videos.predict_options import add_options

EXIT_CODES = (
    "Exit codes: 0 done; 1 an artifact differs from its model, or a video could not be read; 2 wrong use; 3 internal "
    "error, which is a bug in keras_netvlad; 130 interrupted by Ctrl-C; 143 terminated by SIGTERM."
)
EXAMPLES = {
    "extract": "keras-netvlad extract videos features --labels folders --backbone MobileNetV2",
    "train": "keras-netvlad train features --output runs/first",
    "predict": "keras-netvlad predict runs/first clip.mp4 other.mkv --top 3",
    "report": "keras-netvlad report runs/first --videos videos",
    "web": "keras-netvlad web runs/first page --encoder-weights int8",
    "vocabulary": "keras-netvlad vocabulary streets vocabulary --backbone hub:dinov2_base --num-clusters 32",
    "index": "keras-netvlad index streets streets.npz --vocabulary vocabulary",
    "search": "keras-netvlad search features clip.mp4 --run runs/first --count 3",
    "convert": "keras-netvlad convert VGG16-NetVLAD-Pitts30K.mat pitts30k.keras",
    "export": "keras-netvlad export model.keras out --format saved_model onnx",
    "publish": "keras-netvlad publish model.keras served --name videos --labels labels.txt",
    "verify": "keras-netvlad verify model.keras out/model.onnx --data real.npz",
    "inspect": "keras-netvlad inspect served/videos/1",
    "demo": "keras-netvlad demo --output demo",
    "completion": "keras-netvlad completion bash > ~/.local/share/bash-completion/completions/keras-netvlad",
}


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser. It stores the function of the chosen command as `command` and its name as `command_name`."""
    parser = argparse.ArgumentParser(
        prog="keras-netvlad",
        description="NetVLAD video models: extract features, train, export to SavedModel and ONNX, and verify that an "
        "artifact computes what its model computes.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--debug", action="store_true", help="print the stack trace of an error")
    subparsers = parser.add_subparsers(title="commands", dest="command_name", required=True, metavar="COMMAND")
    own = (_extract, _train, _predict, _report, _web, _vocabulary, _index, _search)
    for add in (*own, _convert, _export, _publish, _verify, _inspect, _demo, _completion):
        subparser = add(subparsers)
        subparser.formatter_class = _Help
        subparser.epilog = f"Example:\n\n  {EXAMPLES[subparser.prog.split()[-1]]}\n\n{EXIT_CODES}"
        # Without a default here, the value that was parsed before the command stays.
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


class _Help(argparse.HelpFormatter):
    """Does not fold the lines of an example, so that they can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        paragraphs = text.split("\n\n")
        return "\n\n".join(part if part.startswith("  ") else fill(part, width, indent) for part in paragraphs)


def _demo(subparsers):
    demo = subparsers.add_parser("demo", help="train, export, verify and serve a small model on real speech frames")
    demo.add_argument("--output", required=True, metavar="DIR", help="directory to create; it must not exist")
    demo.add_argument("--epochs", type=int, default=30, help="epochs of each training (default %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of each training (default %(default)s)")
    demo.set_defaults(command=commands.demo)
    return demo


def _convert(subparsers):
    convert = subparsers.add_parser(
        "convert",
        help="turn a checkpoint of another package into a .keras model",
        description="Turns a complete checkpoint of another package, from its inputs to its outputs, into a model that "
        "computes the same numbers. Nothing in the file is executed. docs/migration.md describes the forms.",
    )
    convert.add_argument(
        "file", metavar="FILE", help="a .mat, .pth, .h5 or .npz file, or the prefix of a TensorFlow checkpoint"
    )
    convert.add_argument("output", metavar="OUT.keras", help="file to write; it must not exist")
    convert.add_argument(
        "--form",
        metavar="NAME",
        help="kind of checkpoint: keras2 (models with the NetVLAD of cartwheel, crlz182, NHGJem or TensorFlow Addons), "
        "matlab (VGG16-NetVLAD, also as hloc has it), nextvlad (Lin et al.), pytorch (Nanne, Patch-NetVLAD, "
        "gmberton's benchmark), soccernet (NetVLAD, NetVLAD++), speaker (GhostVLAD of VGG), willow (NetVLAD, NetRVLAD, "
        "NetFV, Gated Soft-DBoW and Soft-DBoW of WILLOW and of Skalic & Austin) or youtube8m (Google's mixture of "
        "experts) (default: recognized by the names of the tensors)",
    )
    convert.set_defaults(command=commands.convert)
    return convert


def _export(subparsers):
    export = subparsers.add_parser("export", help="write a .keras model as SavedModel, ONNX or LiteRT, verified")
    export.add_argument("model", metavar="MODEL.keras", help="a model saved by Keras, with named inputs")
    export.add_argument("output", metavar="DIR", help="directory to create; it must not exist")
    export.add_argument(
        "--format",
        nargs="+",
        default=["saved_model", "onnx"],
        metavar="FORMAT",
        help="saved_model (to DIR/NAME/1/), onnx (to DIR/model.onnx), litert for phones (to DIR/model.tflite), or "
        "several (default saved_model onnx)",
    )
    export.add_argument(
        "--signatures",
        nargs="+",
        default=["serving_default"],
        metavar="NAME",
        help="signatures to write in ONNX: all, or some of serving_default (to DIR/model.onnx, the default), "
        "serve_quantized, accumulate and describe (to DIR/NAME.onnx); other formats contain all",
    )
    export.add_argument("--opset", type=int, default=18, help="ONNX operator set, 13 to 18 (default %(default)s)")
    pictures = export.add_argument_group(
        "options for a model from pixels or of pictures", "Either writes a model of single pictures."
    )
    pictures.add_argument(
        "--layout", choices=["nhwc", "nchw"], help="axes of the uint8 pictures, channels last or first (default nhwc)"
    )
    pictures.add_argument(
        "--size", type=_height_and_width, metavar="HEIGHTxWIDTH", help="size of all pictures (default: any)"
    )
    _add_precision(export)
    _add_checks(export)
    _add_no_verify(export)
    _add_metadata(export)
    _add_imports(export)
    export.set_defaults(command=commands.export)
    return export


def _publish(subparsers):
    publish = subparsers.add_parser("publish", help="write a .keras model as a server's next version, verified")
    publish.add_argument("model", metavar="MODEL.keras", help="a model saved by Keras, with named inputs")
    publish.add_argument("base", metavar="BASE", help="directory of the server's models; created if it does not exist")
    publish.add_argument(
        "--server",
        choices=["tensorflow-serving", "triton"],
        default="tensorflow-serving",
        help="server whose layout to write: BASE/NAME/VERSION/, with config.pbtxt for Triton (default %(default)s)",
    )
    publish.add_argument("--name", help="name under which the server offers the model (default: its own)")
    publish.add_argument("--version", type=int, help="version to write (default: the next free one)")
    publish.add_argument(
        "--max-batch-size", type=int, metavar="ROWS", help="largest request, and most rows to merge (default 32)"
    )
    publish.add_argument(
        "--queue-delay",
        type=int,
        metavar="MICROSECONDS",
        help="time that a request may wait for others to be merged with (default 2000)",
    )
    publish.add_argument(
        "--warmup-frames",
        type=int,
        nargs="*",
        metavar="FRAMES",
        help="lengths of the requests that the server runs before it uses the version; none for no warm-up (default: "
        "about 1 and 300, less for large inputs)",
    )
    # The defaults of the options of Triton are those of the library, so that options that were given are recognized.
    triton = publish.add_argument_group("options of --server triton")
    triton.add_argument("--device", choices=["gpu", "cpu"], help="processor that runs the model (default gpu)")
    _add_precision(triton, default=None)
    triton.add_argument(
        "--preferred-batch-sizes", type=int, nargs="+", metavar="ROWS", help="batches that do not wait for more rows"
    )
    triton.add_argument(
        "--staging",
        metavar="DIR",
        help="directory outside BASE in which to prepare the version (default: the directory that contains BASE)",
    )
    triton.add_argument("--tensorrt", action="store_true", default=None, help="let TensorRT run the model")
    triton.add_argument(
        "--profile-frames",
        type=int,
        nargs=3,
        metavar=("MIN", "USUAL", "MAX"),
        help="lengths that TensorRT's engine accepts (default 1 300 1024)",
    )
    triton.add_argument(
        "--engine-cache", metavar="DIR", help="directory on the server for TensorRT's engines (default /tmp/tensorrt)"
    )
    _add_checks(publish)
    _add_no_verify(publish)
    _add_metadata(publish)
    _add_imports(publish)
    publish.set_defaults(command=commands.publish)
    return publish


def _train(subparsers):
    train = subparsers.add_parser(
        "train",
        help="train on extracted features, or a preset on YouTube-8M's records; a killed run resumes",
        description="Trains a classifier of your own classes on FEATURES, which `extract --labels` wrote, and writes a "
        "predictor; or, with --train, a preset on YouTube-8M's records, and publishes it. A killed run resumes.",
    )
    train.add_argument("features", nargs="?", metavar="FEATURES", help="directory that `extract --labels` wrote")
    train.add_argument("--output", required=True, metavar="DIR", help="directory of the run, new or to resume")
    # The defaults are those of the library, so that options that were given are recognized.
    train.add_argument("--epochs", type=int, help="most epochs (default 100; 5 for a preset)")
    train.add_argument("--batch-size", type=int, help="videos per batch (default 16; 80 for a preset)")
    train.add_argument("--max-frames", type=int, help="most frames of a video in training (default 300)")
    train.add_argument("--learning-rate", type=float, help="learning rate of Adam (default 3e-3; 2e-4 for a preset)")
    train.add_argument(
        "--ema",
        type=float,
        dest="ema_momentum",
        metavar="MOMENTUM",
        help="average the weights with this momentum, such as 0.999",
    )
    train.add_argument("--mixed-precision", action="store_true", default=None, help="compute in bfloat16")
    train.add_argument("--patience", type=int, help="stop after this many validations without an improvement")
    train.add_argument("--seed", type=int, help="seed of the training (default 0)")
    own = train.add_argument_group("options for FEATURES")
    own.add_argument("--pooling", help="pooling of VideoClassifier (default netvlad)")
    own.add_argument("--num-clusters", type=int, metavar="K", help="clusters (default 8)")
    own.add_argument("--hidden-units", type=int, metavar="UNITS", help="width of a hidden layer (default: none)")
    own.add_argument("--dropout", type=float, help="share of the descriptor that training drops (default 0.5)")
    own.add_argument("--no-adapt", dest="adapt", action="store_false", default=None, help="start without k-means")
    own.add_argument(
        "--class-weights",
        action=argparse.BooleanOptionalAction,
        help="weigh rare classes more in the loss (default: if classes are unbalanced)",
    )
    preset = train.add_argument_group("options for YouTube-8M's records")
    preset.add_argument(
        "--train", nargs="+", dest="train_files", metavar="FILES", help="training records: files or quoted patterns"
    )
    preset.add_argument(
        "--validation",
        nargs="+",
        dest="validation_files",
        metavar="FILES",
        help="validation records, for GAP or MAP@K after each epoch",
    )
    preset.add_argument("--preset", help="published model to train (default gated_netvlad)")
    preset.add_argument(
        "--level",
        choices=["frame", "segment", "video"],
        help="kind of the records: frames, frames with rated segments, or means (default frame)",
    )
    preset.add_argument(
        "--feature-dtype", choices=["uint8", "float16", "float32"], help="type of the values of a frame (default uint8)"
    )
    preset.add_argument(
        "--frame-counts",
        choices=["shared", "first", "each"],
        help="lengths of the streams of a video: all the same, that of the first, or one for each (default shared)",
    )
    preset.add_argument("--num-classes", type=int, help="number of classes (default 3862)")
    preset.add_argument(
        "--feature-sizes",
        type=_json_object,
        metavar="JSON",
        help='feature size of each stream (default {"rgb": 1024, "audio": 128})',
    )
    preset.add_argument(
        "--overrides",
        type=_json_object,
        metavar="JSON",
        help='arguments of VideoClassifier, such as {"hidden_units": 512}',
    )
    preset.add_argument(
        "--learning-rate-decay",
        type=float,
        metavar="FACTOR",
        help="factor of the learning rate after every --decay-examples (default 0.8)",
    )
    preset.add_argument(
        "--decay-examples", type=int, metavar="VIDEOS", help="videos between two decays (default 4000000)"
    )
    preset.add_argument(
        "--save-every", type=int, metavar="BATCHES", help="batches between two checkpoints (default: one epoch)"
    )
    preset.add_argument("--errors", choices=["raise", "skip"], help="what to do with bad records (default raise)")
    _add_metadata(preset)
    train.set_defaults(command=commands.train)
    return train


def _predict(subparsers):
    predict = subparsers.add_parser("predict", help="print the best classes of video files")
    predict.add_argument("run", metavar="RUN", help="directory of a run of `train`, or a predictor")
    add_options(predict)
    predict.set_defaults(command=commands.predict)
    return predict


def _verify(subparsers):
    verify = subparsers.add_parser("verify", help="compare artifacts with the .keras model they were made from")
    verify.add_argument("model", metavar="MODEL.keras", help="the model")
    verify.add_argument(
        "artefact", nargs="+", metavar="ARTIFACT", help="a SavedModel directory, an .onnx or a .tflite file"
    )
    verify.add_argument(
        "--layers",
        action="store_true",
        help="compare the output of every layer as well, and name the first that differs; for ONNX files",
    )
    verify.add_argument(
        "--runtime",
        metavar="NAME",
        help="runtime to run the artifacts in: tensorflow (the default for SavedModels), onnxruntime (for .onnx), "
        "litert (for .tflite), openvino (for .onnx and SavedModels), tract or onnx.reference (for .onnx)",
    )
    _add_checks(verify)
    _add_imports(verify)
    verify.set_defaults(command=commands.verify)
    return verify


def _inspect(subparsers):
    inspect = subparsers.add_parser("inspect", help="describe an artifact without running it")
    inspect.add_argument(
        "path", metavar="PATH", help="a SavedModel, an .onnx or .tflite file, or a directory that holds some"
    )
    inspect.set_defaults(command=commands.inspect)
    return inspect


def _extract(subparsers):
    extract = subparsers.add_parser("extract", help="write frame features of a folder of videos as YouTube-8M records")
    extract.add_argument("folder", metavar="FOLDER", help="directory of videos, searched with its subdirectories")
    extract.add_argument("output", metavar="DIR", help="directory of the records; existing records are kept")
    extract.add_argument(
        "--labels",
        metavar="folders|FILE.csv",
        help="folders: the class of a video is its top folder; or a CSV file with the columns path and label (several "
        "separated by ;), and optionally split and group",
    )
    extract.add_argument(
        "--split",
        type=_shares,
        metavar="TRAIN,VALIDATION,TEST",
        help="shares of the videos of each class (default 0.7,0.15,0.15)",
    )
    extract.add_argument("--seed", type=int, default=0, help="seed of the split (default %(default)s)")
    extract.add_argument(
        "--backbone",
        default="MobileNetV2",
        help="model of keras.applications, a .keras file, or hub:PRESET, a preset of keras-hub (default %(default)s)",
    )
    extract.add_argument("--layer", metavar="NAME", help="layer of the backbone to use (default: the last)")
    extract.add_argument(
        "--weights", default="imagenet", help="imagenet, a file of weights without top, or none (default %(default)s)"
    )
    extract.add_argument("--size", type=int, default=224, help="height and width of images (default %(default)s)")
    extract.add_argument("--fps", type=float, default=1.0, help="frames per second (default %(default)s)")
    extract.add_argument(
        "--max-seconds", type=float, metavar="SECONDS", help="seconds to read of each video (default: all)"
    )
    extract.add_argument(
        "--pooling",
        choices=["avg", "max", "token", "none"],
        default="avg",
        help="pooling of the feature map, or of the patches of a transformer; token takes the class token of a "
        "transformer, none writes one row per position (default %(default)s)",
    )
    extract.add_argument(
        "--dtype", choices=["uint8", "float16"], default="uint8", help="type of the features (default %(default)s)"
    )
    extract.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    extract.set_defaults(command=commands.extract)
    return extract


def _vocabulary(subparsers):
    vocabulary = subparsers.add_parser(
        "vocabulary",
        help="cluster the features of pictures and videos, to describe others without training",
        description="Builds a vocabulary (AnyLoc): cosine k-means of the features of a folder of pictures and videos. "
        "`index` and `search` use it without any training. `export DIR/model.keras` writes it for other runtimes.",
    )
    vocabulary.add_argument("folder", metavar="FOLDER", help="directory of pictures and videos, with subdirectories")
    vocabulary.add_argument("output", metavar="DIR", help="directory to create; it must not exist")
    vocabulary.add_argument(
        "--backbone",
        default="MobileNetV2",
        help="model of keras.applications, a .keras file, or hub:PRESET, a preset of keras-hub (default %(default)s)",
    )
    vocabulary.add_argument(
        "--weights", default="imagenet", help="imagenet, a file of weights without top, or none (default %(default)s)"
    )
    vocabulary.add_argument("--size", type=int, default=224, help="height and width of pictures (default %(default)s)")
    vocabulary.add_argument("--layer", metavar="NAME", help="layer of the backbone to use (default: the last)")
    vocabulary.add_argument(
        "--num-clusters", type=int, default=32, metavar="K", help="clusters of the vocabulary (default %(default)s)"
    )
    vocabulary.add_argument("--fps", type=float, default=1.0, help="frames per second (default %(default)s)")
    vocabulary.add_argument(
        "--max-seconds", type=float, metavar="SECONDS", help="seconds to read of each video (default: all)"
    )
    vocabulary.add_argument(
        "--sample-size", type=int, metavar="FEATURES", help="features to cluster (default: 256 for each cluster)"
    )
    vocabulary.add_argument(
        "--seed", type=int, default=0, help="seed of the sample and of k-means (default %(default)s)"
    )
    vocabulary.set_defaults(command=commands.vocabulary)
    return vocabulary


def _index(subparsers):
    index = subparsers.add_parser("index", help="store the descriptors of a folder of pictures and videos for search")
    index.add_argument("folder", metavar="FOLDER", help="directory of pictures and videos, with subdirectories")
    index.add_argument("output", metavar="NPZ", help="file to write; it must not exist")
    index.add_argument("--vocabulary", required=True, metavar="DIR", help="directory that `vocabulary` wrote")
    index.set_defaults(command=commands.index)
    return index


def _search(subparsers):
    search = subparsers.add_parser("search", help="find the clips whose descriptors are nearest to that of a clip")
    search.add_argument(
        "clips",
        metavar="RECORDS|INDEX",
        help="directory or pattern of YouTube-8M records, as extract writes them; or a saved index",
    )
    search.add_argument(
        "clip",
        metavar="CLIP",
        help="the clip to search for: its id, or a video file that --run encodes, or a picture or video file that "
        "--vocabulary encodes",
    )
    search.add_argument("--run", metavar="RUN", help="run of `train` that computes the descriptors")
    search.add_argument(
        "--model", metavar="MODEL.onnx", help="ONNX file that computes the descriptors of the records, instead of a run"
    )
    search.add_argument(
        "--vocabulary", metavar="DIR", help="vocabulary that describes CLIP (default: the one that made the index)"
    )
    search.add_argument("--save-index", metavar="NPZ", help="file to save the descriptors to, for later searches")
    search.add_argument("--count", type=int, default=5, help="clips to print (default %(default)s)")
    search.set_defaults(command=commands.search)
    return search


def _report(subparsers):
    report = subparsers.add_parser("report", help="write the results of a training run as one HTML file")
    report.add_argument("run", metavar="RUN", help="directory of a run of train on extracted features")
    report.add_argument("--output", metavar="HTML", help="file to write, or to replace (default: RUN/report.html)")
    report.add_argument(
        "--videos", metavar="FOLDER", help="folder of the videos (default: the one that extract read, if it exists)"
    )
    report.set_defaults(command=commands.report)
    return report


def _web(subparsers):
    web = subparsers.add_parser("web", help="write a web page that classifies videos in the browser")
    web.add_argument("run", metavar="RUN", help="directory of a run of train on extracted features, or a predictor")
    web.add_argument("output", metavar="DIR", help="directory to write; it must not exist, or be empty")
    web.add_argument("--index", metavar="NPZ", help="index that `search --save-index` wrote; shows the nearest clips")
    web.add_argument(
        "--runtime",
        metavar="FOLDER",
        help="directory of the npm package onnxruntime-web (default: npm installs it in a temporary directory)",
    )
    web.add_argument(
        "--encoder-weights",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="how the encoder's weights are stored; fewer bytes to download, rounded scores (default %(default)s)",
    )
    web.set_defaults(command=commands.web)
    return web


def _completion(subparsers):
    completion = subparsers.add_parser("completion", help="print a script that completes this command in a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="shell of the script")
    completion.set_defaults(command=commands.completion)
    return completion


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be three numbers, such as 0.8,0.1,0.1. Received: {text}") from None


def _height_and_width(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f"must be height and width in pixels, such as 480x640. Received: {text}")
    return height, width


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, such as '{{\"name\": 512}}'. Received: {text}")
    return value


def _add_precision(parser, default="float32"):
    parser.add_argument(
        "--precision",
        choices=["float32", "float16", "int8", "int8-qdq"],
        default=default,
        help="precision of the large projections: float16 and int8-qdq for GPUs in ONNX, int8 for CPUs in ONNX and "
        "LiteRT (default float32: as in the model)",
    )


def _add_checks(parser):
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest relative difference allowed (default 1e-4; 2e-2 with 16-bit layers; more for int8)",
    )
    parser.add_argument("--data", metavar="NPZ", help="real inputs to compare on as well: one array for each input")
    parser.add_argument(
        "--min-agreement",
        type=float,
        metavar="FRACTION",
        help="share of the rows of --data on which artifact and model must name the same class",
    )


def _add_no_verify(parser):
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not compare the artifact with the model"
    )


def _add_imports(parser):
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module to import first, which registers your own layers; this runs its code. It is looked up in "
        "the working directory and on Python's path, and may be given several times",
    )


def _add_metadata(parser):
    parser.add_argument("--labels", metavar="TXT", help="names of the classes, one per line, stored in the artifact")
    parser.add_argument("--trained-on", metavar="TEXT", help="name of the training data, stored in the artifact")
    parser.add_argument("--license", metavar="NAME", help="license, such as apache-2.0, stored in the artifact")
