"""Networks over lifts: one weight per kept edge, one bias per copy, and nothing dense that is not dense.

On a CPU, what has circuits goes through them, whole strips of samples at a time, see
`rsl_cli.circuit_node`; everything else goes edge by edge. There activations are feature-major,
(copies * numbers per copy, samples), so that a sparse product streams contiguous rows.
Every base edge is a sparse product; but on a GPU one whose copies are all joined (from the input, or a readout) is one
matrix product per replica, which a CPU would round as its threads share it out. Each replica of a union is computed
exactly as it would be alone, by any number of threads.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.circuit_node import CircuitNode
from rsl_cli.circuits import has_circuits
from rsl_cli.edge_steps import EdgeStep, Tape, WeightUse, contiguous_backward
from rsl_cli.errors import ConfigError, DataError, one_of
from rsl_cli.graph import Init, slot_key
from rsl_cli.kernels.autograd import Implementation
from rsl_cli.kernels.serial import one_thread
from rsl_cli.lift import Lift, LiftUnion, fibre_sizes, lifting_of
from rsl_cli.parametrization import weight_std
from rsl_cli.readouts import PARAMETRIZATIONS
from rsl_cli.rng import generator


class LiftedNetwork(nn.Module):
    """The network that a lift, or a union of lifts, computes.

    Args:
        lift: a `Lift` or a `LiftUnion`.
        seed: what weights and biases are drawn from; a sequence gives one per replica, None each replica's own seed.
        dtype: of all parameters; the input is cast to it.
        parametrization: ``standard``, ``ntk`` or ``mup``; sets the readout's multiplier by lift degree.
        implementation: who computes the sparse products.

    Raises:
        ConfigError: unknown parametrization, or as many seeds as there are replicas not given.
    """

    def __init__(
        self,
        lift: Lift | LiftUnion,
        seed: int | np.integer | Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        parametrization: str = "standard",
        implementation: Implementation = Implementation.AUTO,
    ) -> None:
        super().__init__()
        if parametrization not in PARAMETRIZATIONS:
            raise ConfigError(one_of("parametrization", parametrization, PARAMETRIZATIONS))
        self.lift = lift
        self.parametrization = parametrization
        self._dtype = dtype
        self._implementation = implementation
        base, replicas = lift.base, lift.replicas
        seeds = _seeds(seed, replicas)
        self._names: dict[str, str] = {}
        self._segments: dict[str, list[int]] = {}
        for index, edge in enumerate(base.edges):
            shape = base.weight_shape(edge)
            if shape is not None:
                counts = [len(replica.lists[index][0]) for replica in replicas]
                stds = [weight_std(edge, replica, parametrization) for replica in replicas]
                self._add(f"weight {edge.name}", edge.init, counts, shape, stds, seeds, dtype)
        for vertex in base.vertices:
            shape = base.bias_shape(vertex)
            if shape is not None:
                counts = [replica.fibres[vertex.name] for replica in replicas]
                stds = [vertex.bias_init.gain for _ in replicas]
                self._add(f"bias {vertex.name}", vertex.bias_init, counts, shape, stds, seeds, dtype)
        self._steps = [EdgeStep(lift, index, parametrization) for index in range(len(base.edges))]

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and so of the outputs."""
        return next((parameter.dtype for parameter in self.parameters()), self._dtype)

    @property
    def replica_count(self) -> int:
        """R."""
        return len(self.lift.replicas)

    def weight(self, source: str, target: str, slot: str | None = None) -> nn.Parameter:
        """Weights of the kept edges over a base edge, (E, *W_e), in the order of ``lift.edges``.

        Returns:
            The parameter itself, of all replicas one after the other.

        Raises:
            GraphError: no such edge.
            KeyError: the edge's map has no weight.
        """
        edge = self.lift.base.edges[self.lift.base.edge_index(source, target, slot)]
        return self.get_parameter(self._names[f"weight {edge.name}"])

    def bias(self, vertex: str) -> nn.Parameter:
        """Biases of the copies of a vertex, (n_v, *Y_v), axes along which they are shared being of size 1."""
        self.lift.base.vertex(vertex)
        return self.get_parameter(self._names[f"bias {vertex}"])

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Compute the outputs.

        Args:
            x: (N, *input_shape), shared by all replicas; or for a union (R, N, *input_shape), samples of their own.

        Returns:
            (N, outputs) for a lift; (R, N, outputs) for a union.

        Raises:
            DataError: samples of another shape.
        """
        batch, tensors = self._batch(x), {name: getattr(self, name) for name in self._segments}
        if self._has_node and CircuitNode.serves(batch, tensors):
            out = self._node(batch, tensors, self._edgewise)
        else:
            out = self._edgewise(batch, tensors)
        return out if isinstance(self.lift, LiftUnion) else out[0]

    def forward_on_tape(self, x: Tensor, tape: "Tape", sums: dict[str, Tensor] | None = None) -> Tensor:
        """Compute (R, N, outputs) edge by edge, noting on the tape where every parameter acts.

        Args:
            x: as for `forward`.
            tape: what is noted, by the parameter's name.
            sums: given, each vertex's slots combined, with its bias, (copies, *space, N), by the vertex's name.

        Returns:
            Outputs, (R, N, outputs).
        """
        return self._edgewise(self._batch(x), {name: getattr(self, name) for name in self._segments}, tape, sums)

    def _batch(self, x: Tensor) -> Tensor:
        """Samples as (1 or R, N, inputs) of the parameters' type."""
        base, replicas = self.lift.base, self.replica_count
        rank = x.dim() - len(base.input_shape)
        if rank not in (1, 2) or x.shape[rank:] != base.input_shape or (rank == 2 and x.shape[0] != replicas):
            shape = ", ".join(map(str, base.input_shape))
            raise DataError(
                f"a batch of shape {tuple(x.shape)}; this network takes (N, {shape}) or, {replicas} being the number "
                f"of its replicas, ({replicas}, N, {shape})"
            )
        samples = x.shape[rank - 1]
        return x.to(self.dtype).reshape(replicas if rank == 2 else 1, samples, math.prod(base.input_shape))

    @cached_property
    def _has_node(self) -> bool:
        return self._implementation is Implementation.AUTO and has_circuits(self.lift.base, self.parametrization)

    @cached_property
    def _node(self) -> CircuitNode:
        return CircuitNode(self.lift.replicas, self.parametrization, self._segments)

    def _edgewise(
        self,
        batch: Tensor,
        tensors: Mapping[str, Tensor],
        tape: "Tape | None" = None,
        sums: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Outputs (R, N, outputs) of samples (1 or R, N, inputs), edge by edge."""
        base, replicas, samples = self.lift.base, self.replica_count, batch.shape[1]
        named = {name: tensors[attribute] for name, attribute in self._names.items()}
        # (1 or R, d, N): replicas that share their samples share one copy of them.
        values: dict[str, Tensor] = {base.input.name: batch.transpose(1, 2).contiguous()}
        for vertex in base.vertices:
            if vertex.kind == "input":
                continue
            slots = {}
            for edge, step in zip(base.edges, self._steps, strict=True):
                if edge.target == vertex.name:
                    weight = named.get(f"weight {edge.name}")
                    z = step(weight, values[edge.source], self._implementation)
                    if tape is not None and weight is not None:
                        tape[self._names[f"weight {edge.name}"]] = WeightUse(step, values[edge.source], z)
                    space = edge.map.output_space(base.space(edge.source))
                    slots[slot_key(edge)] = z.view(len(z) // math.prod(space), *space, samples)
            z = vertex.combine(slots)
            bias = named.get(f"bias {vertex.name}")
            if bias is not None:
                # Over the space first: a gradient that all of z added up to at once would be shared out among threads.
                z = z + bias.expand(z.shape[:-1]).unsqueeze(-1)
                if tape is not None:
                    tape[self._names[f"bias {vertex.name}"]] = z
            if sums is not None:
                sums[vertex.name] = z
            z = vertex.norm(z) if vertex.norm else z
            y = ACTIVATIONS.find(vertex.activation)(z)
            y = vertex.pool(y) if vertex.pool else y
            values[vertex.name] = y.flatten(0, -2)
        # Losses see samples first; what comes back from them must be laid out alike, whoever is beside a replica.
        return contiguous_backward(values[base.output.name]).view(replicas, base.output_size, samples).transpose(1, 2)

    def segments(self) -> dict[str, list[int]]:
        """How many leading entries of each parameter belong to each replica, one after the other."""
        return dict(self._segments)

    def replica_tensors(self, tensors: Mapping[str, Tensor], replica: int) -> dict[str, Tensor]:
        """One replica's part of tensors that are shaped and named like the parameters."""
        parts = {}
        for name, tensor in tensors.items():
            ends = np.cumsum([0, *self._segments[name]])
            parts[name] = tensor[ends[replica] : ends[replica + 1]]
        return parts

    def squared_norms(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, " replicas"]:
        """Per replica, the squared Euclidean norm of tensors named like the parameters; float64 (R,)."""
        total = torch.zeros(self.replica_count, dtype=torch.float64)
        with one_thread():
            for replica in range(self.replica_count):
                for part in self.replica_tensors(tensors, replica).values():
                    total[replica] += part.double().square().sum().cpu()
        return total

    def learning_rate_scales(self, *, adaptive: bool, replica: int = 0) -> dict[str, float]:
        """Factor on each parameter's learning rate that its parametrization asks for, by degree.

        Args:
            adaptive: whether the optimiser divides by the gradient's size (Adam) or not (SGD, gradient descent).
            replica: of which replica, degrees having factors of their own.

        Returns:
            Factors by parameter name. With n the lift degree and m the growth of an edge's in-degree since degree 1
            (1 for bounded in-degree, n if dense), a readout multiplied by n^-p asks for n^(2p - 1) / m of SGD and for
            n^(p - 1) / m of Adam, m only on edges between hidden vertices: Yang et al. (2022, Tensor Programs V,
            table 8) restated for in-degrees. What acts on the output without a multiplier (its bias, an edge straight
            from the input) keeps factor 1, and so does everything for ``standard``.
        """
        return _learning_rate_scales(self, self.lift.replicas[replica], adaptive)

    def _add(
        self,
        name: str,
        init: Init,
        counts: Sequence[int],
        shape: tuple[int, ...],
        stds: Sequence[float],
        seeds: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        parts = []
        for count, std, seed in zip(counts, stds, seeds, strict=True):
            draw = generator(seed, f"network/{name}")
            parts.append(init.law.sample(draw, (count, *shape)) * std)
        # A copy in torch's memory, which is aligned; NumPy's may not be.
        values = torch.tensor(np.concatenate(parts), dtype=dtype)
        attribute = "".join(c if c.isalnum() else "_" for c in name.replace("->", "__to__"))
        while attribute in self._segments:
            attribute += "_"
        self.register_parameter(attribute, nn.Parameter(values))
        self._names[name] = attribute
        self._segments[attribute] = list(counts)


def _seeds(seed: int | np.integer | Sequence[int] | None, replicas: Sequence[Lift]) -> list[int]:
    if seed is None:
        return [replica.seed for replica in replicas]
    if isinstance(seed, int | np.integer):
        return [int(seed)] * len(replicas)
    if len(seed) != len(replicas):
        raise ConfigError(f"{len(seed)} seeds for {len(replicas)} replicas; give one seed, or one each")
    return list(seed)


def _learning_rate_scales(network: LiftedNetwork, lift: Lift, adaptive: bool) -> dict[str, float]:
    power = PARAMETRIZATIONS[network.parametrization]
    if power == 0:
        return dict.fromkeys(network.segments(), 1.0)
    common: float = float(lift.degree) ** ((power if adaptive else 2 * power) - 1.0)
    scales = dict.fromkeys(network.segments(), common)
    base = lift.base
    if base.output.bias:
        scales[network._names[f"bias {base.output.name}"]] = 1.0
    first = fibre_sizes(base, 1)
    for edge in base.edges:
        name = network._names.get(f"weight {edge.name}")
        ends = (base.vertex(edge.source).kind, base.vertex(edge.target).kind)
        if name is None:
            continue
        if ends == ("input", "output"):
            scales[name] = 1.0
        elif ends == ("hidden", "hidden") and lifting_of(edge, base, lift.lifting).law.complete:
            scales[name] /= lift.fibres[edge.source] / first[edge.source]
    return scales
