"""Assignment by optimal transport, as a function of tensors."""

from keras import ops

from keras_netvlad.layers.vlad_ops import Tensor, soft_assignments

# The score of padding. Its exponential is 0. Minus infinity would give NaN for a video without frames. A power of 2 is
# the same number in float32 and float64, of which torch uses one in `where` and the other in `max`.
NO_SCORE = -(2.0**100)


def transported_assignments(scores: Tensor, weights: Tensor, present: Tensor | None, iterations: int) -> Tensor:
    """Returns assignments of which every cluster gets the same share, and a dustbin the rest: `(B, N, K)`.

    Sinkhorn's iterations find an offset `u[k]` for each cluster and the dustbin, and `v[n]` for each feature:

        u[k] = log t[k] - log sum_n exp(s[n, k] + v[n])
        v[n] = log m[n] - log sum_k exp(s[n, k] + u[k])
        a[n, k] = exp(s[n, k] + u[k] + v[n]) = m[n] softmax(s[n] + u)[k]

    so that after each iteration every feature is assigned completely, and with more iterations each cluster comes
    closer to its share `t[k]`. Of `n = sum_n m[n]` features, each of `K` clusters gets 1 and the dustbin `n - K`
    (Izquierdo & Civera 2024, section 3.2). That needs more features than clusters. Otherwise the dustbin and the
    clusters all get `n / (K + 1)`, which is 1 for `n = K + 1`, where both definitions agree.

    Args:
        scores: `(B, N, K)`. That of the dustbin is 0. Any number that is added to all scores of a cluster or of the
            dustbin is subtracted from its `u` again.
        weights: `m` `(B, N, 1)`, 0 for padding.
        present: `(B, N)`, which features are real, boolean; or `None` if all are.
        iterations: Number of iterations, a constant of the graph.
    """
    num_clusters = scores.shape[-1]
    s = ops.concatenate([scores, ops.zeros_like(scores[..., :1])], axis=-1)  # (B, N, K + 1)
    is_real = None if present is None else ops.expand_dims(present, 2)
    s = s if is_real is None else ops.where(is_real, s, NO_SCORE)
    number = ops.sum(weights, axis=1, keepdims=True)  # n (B, 1, 1)
    number = ops.where(number > 0, number, 1.0)
    even = number / (num_clusters + 1.0)
    # The shares of a cluster and of the dustbin. `ops.minimum` of float64 is float32 on torch and JAX (Keras 3.15).
    is_few = even < 1.0
    share, rest = ops.where(is_few, even, 1.0), ops.where(is_few, even, number - num_clusters)
    log_share = ops.log(ops.concatenate([share] * num_clusters + [rest], axis=-1))  # log t (B, 1, K + 1)
    log_weight = ops.log(weights if is_real is None else ops.where(is_real, weights, 1.0))  # log m (B, N, 1)
    v = log_weight
    u = ops.zeros_like(log_share)
    for iteration in range(iterations):
        if iteration:
            v = log_weight - _log_sum_exp(s + u, axis=2)
            v = v if is_real is None else ops.where(is_real, v, 0.0)
        u = log_share - _log_sum_exp(s + v, axis=1)
    return soft_assignments(s + u, num_clusters, weights)


def _log_sum_exp(x, axis):
    # The largest term cancels, and keeps the exponentials finite. `initial`, for there may be no features.
    largest = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True, initial=NO_SCORE))
    return ops.log(ops.sum(ops.exp(x - largest), axis=axis, keepdims=True)) + largest
