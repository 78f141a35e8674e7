"""Computes descriptors of any number of videos with Beam's RunInference: reads TFRecords and writes Parquet.

    pip install 'keras_netvlad[beam]'
    python examples/embed_with_beam.py MODEL.onnx 'VIDEOS*.tfrecord' OUTPUT [Beam's own options]

Records are frame-level `SequenceExample`s with an `id` and a list of bytes for each stream of the model. The files
OUTPUT-* contain `id` and `descriptor`. Dataflow, Flink and Spark run failed bundles again. Beam's local runner stops
when a worker dies and writes no output; run the pipeline again.
"""

import argparse
import sys
from pathlib import Path

import apache_beam as beam
import pyarrow
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))  # on a cluster: Beam's option --extra_package
from embed import Embed


class EmbedHandler(ModelHandler):
    """Tells RunInference how to describe batches of videos, with one session per process."""

    def __init__(self, embed, max_batch_size=64):
        super().__init__(max_batch_size=max_batch_size)
        self.embed = embed

    def load_model(self):
        """Opens the session."""
        self.embed.session()
        return self.embed

    def run_inference(self, batch, model, inference_args=None):
        """Returns the descriptors of a batch of dicts from stream to bytes."""
        return list(model({name: [video[name] for video in batch] for name in batch[0]}))


def read_video(record):
    """Returns `(id, {stream: bytes})` of a serialized frame-level `SequenceExample`."""
    example = _sequence_example().FromString(record)
    lists = example.feature_lists.feature_list
    streams = {name: b"".join(frame.bytes_list.value[0] for frame in lists[name].feature) for name in lists}
    return example.context.feature["id"].bytes_list.value[0].decode(), streams


def _sequence_example(_made=[]):  # noqa: B006
    """Returns the message class. The fields that are read are declared here, so that workers need no TensorFlow."""
    if not _made:
        file = descriptor_pb2.FileDescriptorProto(name="videos.proto", package="videos", syntax="proto3")
        field = descriptor_pb2.FieldDescriptorProto

        def message(parent, name, fields):
            made = parent.message_type.add(name=name) if parent is file else parent.nested_type.add(name=name)
            for number, (field_name, kind, repeated) in enumerate(fields, 1):
                entry = made.field.add(name=field_name, number=number, label=field.LABEL_REPEATED if repeated else 1)
                if kind.startswith("."):
                    entry.type, entry.type_name = field.TYPE_MESSAGE, kind
                else:
                    entry.type = getattr(field, f"TYPE_{kind}")
            return made

        def mapping(parent, name, value):
            entry = message(parent, f"{name}Entry", [("key", "STRING", False), ("value", value, False)])
            entry.options.map_entry = True

        message(file, "BytesList", [("value", "BYTES", True)])
        message(file, "Feature", [("bytes_list", ".videos.BytesList", False)])
        features = message(file, "Features", [("feature", ".videos.Features.FeatureEntry", True)])
        mapping(features, "Feature", ".videos.Feature")
        message(file, "FeatureList", [("feature", ".videos.Feature", True)])
        lists = message(file, "FeatureLists", [("feature_list", ".videos.FeatureLists.FeatureListEntry", True)])
        mapping(lists, "FeatureList", ".videos.FeatureList")
        message(
            file,
            "SequenceExample",
            [("context", ".videos.Features", False), ("feature_lists", ".videos.FeatureLists", False)],
        )
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        _made.append(message_factory.GetMessageClass(pool.FindMessageTypeByName("videos.SequenceExample")))
    return _made[0]


def embed_videos(embed, source, target, options=None):
    """Reads records, embeds them, and writes descriptors."""
    schema = pyarrow.schema([("id", pyarrow.string()), ("descriptor", pyarrow.list_(pyarrow.float32()))])
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromTFRecord(str(source))
            | beam.Map(read_video)
            | RunInference(KeyedModelHandler(EmbedHandler(embed)))
            | beam.MapTuple(lambda key, result: {"id": key, "descriptor": _floats(result)})
            | beam.io.WriteToParquet(str(target), schema, file_name_suffix=".parquet")
        )


def _floats(result):
    return getattr(result, "inference", result).tolist()


def main():
    """Parses the command line and computes the descriptors. Unknown options are passed to Beam."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="ONNX file of `keras_netvlad.export.export_onnx`")
    parser.add_argument("videos", help="TFRecord files, a glob")
    parser.add_argument("output", help="beginning of the names of the Parquet files")
    options, beam_options = parser.parse_known_args()
    embed_videos(Embed(options.model, num_threads=1), options.videos, options.output, PipelineOptions(beam_options))


if __name__ == "__main__":
    main()
