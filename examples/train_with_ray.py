"""Runs `train_many_hosts.py` with Ray Train, which starts a process on each host and restarts all if one dies.

pip install 'keras_netvlad[ray]' jax
python examples/train_with_ray.py --output /shared/runs/x --processes 2
"""

import argparse
import os
import socket
import sys
from pathlib import Path

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.jax import JaxTrainer

EXAMPLES = str(Path(__file__).parent)


def train_loop(config):
    """Trains in one process. Ray Train calls this function in every process."""
    os.environ["KERAS_BACKEND"] = "jax"
    sys.path.insert(0, EXAMPLES)
    import jax
    import keras
    import train_many_hosts

    context = ray.train.get_context()
    process, processes = context.get_world_rank(), context.get_world_size()
    address = broadcast_from_rank_zero(f"{ray.util.get_node_ip_address()}:{_free_port()}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # On CPUs JaxTrainer does not do this, and each process would train a separate model.
    keras.distribution.initialize(address, processes, process)
    callbacks = [make() for make in config.get("callbacks", ())]
    train_many_hosts.train(config["output"], process, processes, config["epochs"], callbacks=callbacks)


def fit(output, processes=2, epochs=5, max_failures=3, callbacks=()):
    """Trains in `processes` processes. If one dies, all are restarted, up to `max_failures` times."""
    trainer = JaxTrainer(
        train_loop,
        train_loop_config={"output": str(output), "epochs": epochs, "callbacks": tuple(callbacks)},
        scaling_config=ray.train.ScalingConfig(num_workers=processes),
        run_config=ray.train.RunConfig(
            storage_path=str(Path(output).absolute() / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
    )
    trainer.fit()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def main():
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder that all hosts share")
    parser.add_argument("--processes", type=int, default=2, help="number of processes (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="default %(default)s")
    options = parser.parse_args()
    fit(options.output, options.processes, options.epochs)


if __name__ == "__main__":
    main()
