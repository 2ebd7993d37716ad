"""PyTorch on the cases of GPU evidence: eager, the whole step in a CUDA graph, and torch.compile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.cases import Problem

Answer = tuple[list[float], list[float]] | str


def _torch() -> Any | None:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def _train(problem: Problem, way: str) -> Answer:
    torch = _torch()
    if torch is None:
        return "torch is not installed, or sees no GPU"
    from benchmarks.gpu.cases import LEARNING_RATE, MOMENTUM

    case = problem.case
    torch.backends.cuda.matmul.allow_tf32 = case.precision == "tf32"
    x = torch.tensor(problem.x, device="cuda").float() / 255
    y = torch.tensor(problem.y, device="cuda")
    orders = torch.tensor(problem.orders, device="cuda")
    networks = range(case.networks)
    # Weights of all networks together, (K, in, out): one network is a batch of one.
    layers = [
        [
            torch.stack([torch.tensor(problem.weights[k][i][part]) for k in networks]).cuda()
            for part in (0, 1)
        ]
        for i in range(len(case.sizes) - 1)
    ]
    parameters = []
    for weight, bias in layers:
        parameters += [weight.transpose(1, 2).contiguous(), bias[:, None, :].contiguous()]
    single = case.networks == 1
    if single:
        parameters = [p[0] if i % 2 == 0 else p[0, 0] for i, p in enumerate(parameters)]
    for p in parameters:
        p.requires_grad_()
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM, foreach=True)
    index = torch.zeros_like(orders[:, 0, 0])
    total = torch.zeros((), device="cuda")

    def loss_of() -> Any:
        rows = index[0] if single else index
        h = x[rows]
        with torch.autocast("cuda", torch.bfloat16, enabled=case.precision == "bf16"):
            for i in range(0, len(parameters), 2):
                weight, bias = parameters[i], parameters[i + 1]
                h = torch.addmm(bias, h, weight) if single else torch.baddbmm(bias, h, weight)
                if i + 2 < len(parameters):
                    h = torch.relu(h)
        logits = h.float().reshape(-1, case.classes)
        # Mean over a network's batch, sum over networks: each has its own gradient.
        each = torch.nn.functional.cross_entropy(logits, y[rows].reshape(-1), reduction="none")
        return each.sum() / case.batch

    if way == "compile":
        loss_of = torch.compile(loss_of, mode="max-autotune-no-cudagraphs")

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        total.add_(loss.detach() / case.networks)

    replay: Callable[[], None] = step
    kept = [p.detach().clone() for p in parameters]
    if way != "eager":
        # Warm up beside the training, record once, then take the weights back.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay
        with torch.no_grad():
            for p, k in zip(parameters, kept, strict=True):
                p.copy_(k)
            for state in optimizer.state.values():
                state["momentum_buffer"].zero_()
    losses, seconds = [], []
    epochs = case.epochs if way != "eager" else min(case.epochs, 5)
    for epoch in range(epochs):
        total.zero_()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for i in range(case.steps):
            index.copy_(orders[:, epoch, i])
            replay()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        losses.append(float(total) / case.steps)
    return losses, seconds


RIVALS: dict[str, Callable[[Problem], Answer]] = {
    "torch eager": lambda problem: _train(problem, "eager"),
    "torch graph": lambda problem: _train(problem, "graph"),
    "torch compile": lambda problem: _train(problem, "compile"),
}
