"""TensorFlow as a rival: the epoch is one tf.function with a loop over its batches."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import runner
import tensorflow as tf


class Training(runner.Training):
    whole_epochs = True

    def variants(self) -> list[str]:
        return ["graph", "xla"]

    def trial_examples(self) -> int:
        return self.examples

    def setup(self, variant: str) -> None:
        # Bytes, converted batch by batch: 5 to 40 % faster than data kept as float32.
        self.x = tf.constant(self.x_bytes[: self.examples])
        self.y = tf.constant(self.labels[: self.examples].astype(np.int32))
        self.weights = [tf.Variable(np.ascontiguousarray(w.T)) for w, _ in self.layers]
        self.biases = [tf.Variable(b) for _, b in self.layers]
        variables = self.weights + self.biases
        first = [tf.Variable(tf.zeros_like(v)) for v in variables]
        second = [tf.Variable(tf.zeros_like(v)) for v in variables]
        steps = tf.Variable(0.0)

        @tf.function(jit_compile=variant == "xla", autograph=False)
        def step(rows: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                loss = self.mean_loss(tf.gather(self.x, rows), tf.gather(self.y, rows))
            gradients = tape.gradient(loss, variables)
            if self.optimizer == "adam":
                count = steps.assign_add(1.0)
                # 1 - beta**count, which float32 would give no more than five digits of.
                scale1, scale2 = (-tf.math.expm1(count * np.log(beta)) for beta in (0.9, 0.999))
            for p, g, m, v in zip(variables, gradients, first, second, strict=True):
                if self.optimizer == "adam":
                    m.assign_add(0.1 * (g - m))
                    v.assign_add(0.001 * (g * g - v))
                    p.assign_sub(self.rate / scale1 * m / (tf.sqrt(v / scale2) + 1e-8))
                else:
                    m.assign(0.9 * m + g)
                    p.assign_sub(self.rate * m)

        @tf.function(autograph=False)
        def run(order: tf.Tensor) -> None:
            def body(i: tf.Tensor) -> tuple[tf.Tensor]:
                step(order[i])
                return (i + 1,)

            tf.while_loop(
                lambda i: i < tf.shape(order)[0], body, (tf.constant(0),), parallel_iterations=1
            )

        self.run = run

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        if x.dtype == tf.uint8:
            x = tf.cast(x, tf.float32) * (1 / 255)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = tf.nn.bias_add(tf.matmul(x, weight), bias)
            x = x if i + 1 == len(self.weights) else tf.nn.relu(x)
        return x

    def mean_loss(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=self.logits(x))
        return tf.reduce_mean(losses)

    def epoch(self, order: np.ndarray) -> None:
        self.run(tf.constant(order.reshape(-1, self.batch).astype(np.int32)))

    def loss(self, count: int) -> list[float]:
        return [float(self.mean_loss(self.x[:count], self.y[:count]))]


def prepare(case: dict[str, Any], threads: int, mode: str) -> runner.Case:
    if case["kind"] != "train":
        raise runner.Unsupported("TensorFlow takes part in the training of one network only")
    return Training(case, threads, mode)


def threads_given() -> int:
    """TensorFlow wants to know before it does anything else."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    return int(parser.parse_known_args()[0].threads)


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(threads_given())
    tf.config.threading.set_inter_op_parallelism_threads(1)
    runner.serve(prepare, lambda: {"tensorflow": tf.__version__, "numpy": np.__version__})
