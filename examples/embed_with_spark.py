"""Computes descriptors of any number of videos with Spark: reads and writes Parquet, one session per Python worker.

    pip install 'keras_netvlad[spark]'        # and Java 17
    python examples/embed_with_spark.py MODEL.onnx VIDEOS OUTPUT

VIDEOS is a Parquet file or folder with the columns `id` and, for each stream of the model, the `uint8` frames of a
video as bytes. OUTPUT receives `id` and `descriptor`. A task whose worker dies is run again, up to
`spark.task.maxFailures` times.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
from pyspark.sql import SparkSession
from pyspark.sql.functions import arrow_udf, struct

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
import embed as embed_module
from embed import Embed


def embed_videos(spark, embed, source, target, batch_size=64):
    """Reads videos, embeds them in Spark's Python workers, and writes descriptors."""
    spark.sparkContext.addPyFile(embed_module.__file__)
    # Arrow batches of rows that Spark converts, and those that it passes on as the Parquet reader made them.
    for setting in ("spark.sql.execution.arrow.maxRecordsPerBatch", "spark.sql.parquet.columnarReaderBatchSize"):
        spark.conf.set(setting, batch_size)
    videos = spark.read.parquet(str(source))
    streams = [column for column in videos.columns if column != "id"]

    @arrow_udf("array<float>")
    def describe(batches: Iterator[pyarrow.Array]) -> Iterator[pyarrow.Array]:
        for batch in batches:
            descriptors = embed({stream: batch.field(stream).to_pylist() for stream in streams})
            yield pyarrow.array(list(descriptors), pyarrow.list_(pyarrow.float32()))

    videos.select("id", describe(struct(*streams)).alias("descriptor")).write.parquet(str(target))


def main():
    """Parses the command line and computes the descriptors, on this machine or where `spark-submit` runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="ONNX file of `keras_netvlad.export.export_onnx`")
    parser.add_argument("videos", help="Parquet file or folder")
    parser.add_argument("output", help="folder for Parquet files, which must not exist")
    options = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # otherwise workers take the first `python3` on the path
    spark = SparkSession.builder.appName("embed").getOrCreate()
    try:
        embed_videos(spark, Embed(options.model, num_threads=1), options.videos, options.output)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
