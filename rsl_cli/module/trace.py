"""Read a torch module through torch.fx: every call of its forward, with the layer and the line that an error names."""

import contextlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.utils import parametrize

from rsl_cli.errors import RAISED, GraphError
from rsl_cli.module.call import Call
from rsl_cli.module.draft import FLAT, DraftVertex, Part, Value
from rsl_cli.module.layers import FUNCTIONS, MODULES
from rsl_cli.parts import Space

_SAMPLES = 2
_TORCH = str(Path(torch.__file__).parent)
_HANDLED = ("placeholder", "get_attr", "output")
_FOLD = (
    "train without it, or fold a trained one into the layer before: torch.nn.utils.fusion.fuse_conv_bn_eval, "
    "fuse_linear_bn_eval"
)


def read_module(module: nn.Module, input_shape: Sequence[int]) -> DraftVertex:
    """Trace a module and find the vertex that each call makes.

    Args:
        module: takes one tensor (N, *input_shape), or (N, 1, H, W) where that is (H, W); returns (N, outputs).
        input_shape: shape of one sample.

    Returns:
        The output vertex to be; the others are what it reads.

    Raises:
        GraphError: torch.fx cannot trace the module, or a layer or function has no map; the text names it and its line.
    """
    name = type(module).__name__
    tracer = fx.Tracer()
    tracer.record_stack_traces = True
    parameters = inspect.signature(module.forward).parameters.values()
    needed = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
    if len(needed) != 1:
        raise GraphError(
            f"module {name}: its forward takes {', '.join(needed) or 'nothing'}; accepted: one tensor (N, ...), and "
            "others only with defaults"
        )
    _check_plain(module, tracer)
    try:
        graph = tracer.trace(module, {p.name: p.default for p in parameters if p.name not in needed})
    except RAISED as error:
        raise GraphError(
            f"module {name}: torch.fx cannot trace it{_line_of(error)}: {_first_line(error)}; accepted: a forward "
            "without control flow that depends on tensors"
        ) from error
    reader = _Reader(fx.GraphModule(module, graph), module, tuple(input_shape))
    with torch.no_grad():
        reader.run(_zeros(module, shape_taken(module, input_shape) or _likely_shape(module, input_shape)))
    assert reader.last is not None
    return reader.last


def _check_plain(module: nn.Module, tracer: fx.Tracer) -> None:
    """Refuse modules that a trace does not see into; layers are refused where they are called, by their line."""
    for path, part in module.named_modules():
        changed = changed_call(part)
        if changed and not (path and tracer.is_leaf_module(part, path)):
            try:
                place = f" at {inspect.getsourcefile(type(part))}:{inspect.getsourcelines(type(part))[1]}"
            except (OSError, TypeError):
                place = ""
            named = f"module '{path}' ({type(part).__name__})" if path else f"module {type(part).__name__}"
            raise GraphError(f"{named}{place}: {changed}")


def changed_call(part: nn.Module) -> str | None:
    """What of a module's call is not in its forward, and what to do about it; None if nothing is."""
    home = torch.nn.modules.module
    if parametrize.is_parametrized(part):
        names = ", ".join(part.parametrizations)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return f"computes its {names}; accepted: plain Parameters (torch.nn.utils.parametrize.remove_parametrizations)"
    hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
    hooks += [*home._global_forward_pre_hooks.values(), *home._global_forward_hooks.values()]
    if hooks:
        names = ", ".join(sorted({getattr(hook, "__name__", type(hook).__name__) for hook in hooks}))
        return (
            f"has forward hooks ({names}), which no lift would run; accepted: none (their handle's remove(), "
            "torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm take them off)"
        )
    if "forward" in vars(part) or type(part).__call__ is not nn.Module.__call__:
        return "its forward was replaced from outside its class, which a trace does not see; accepted: a class's own"
    return None


def shape_taken(module: nn.Module, input_shape: Sequence[int]) -> Space | None:
    """As what a module takes samples of a shape: that shape, one channel of it, or not at all (None).

    It takes what it makes (N, outputs) of.

    Returns:
        The shape of one sample as the module takes it; None if it takes neither.
    """
    training = module.training
    module.eval()
    try:
        for shape in (tuple(input_shape), (1, *input_shape))[: 2 if len(input_shape) == 2 else 1]:
            with contextlib.suppress(Exception), torch.no_grad():
                out = module(_zeros(module, shape))
                if isinstance(out, Tensor) and out.dim() == 2 and len(out) == _SAMPLES:
                    return shape
        return None
    finally:
        module.train(training)


def _likely_shape(module: nn.Module, input_shape: Sequence[int]) -> Space:
    """As what a module that cannot be run was meant to take samples, so that it fails where it is wrong."""
    channel = len(input_shape) == 2 and any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    return (1, *input_shape) if channel else tuple(input_shape)


def _zeros(module: nn.Module, shape: Sequence[int]) -> Tensor:
    example = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return example.new_zeros(_SAMPLES, *shape)


class _Reader(fx.Interpreter):
    """Runs a trace on zeros, for the shapes, and reads each call beside it."""

    def __init__(self, traced: fx.GraphModule, module: nn.Module, input_shape: Space) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False  # Errors are one line.
        self.root = module
        self.input_shape = input_shape
        self.parameters = {id(p): name for name, p in module.named_parameters()}
        self.readers: dict[str, tuple[str, str]] = {}
        self.values: dict[fx.Node, Any] = {}
        self.names = {"x", "y"}
        self.last: DraftVertex | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Compute one call and read it."""
        known = n.op in _HANDLED or any(source in self.values for source in n.all_input_nodes)
        rule = self._rule(n) if known and n.op not in _HANDLED else None
        try:
            result = super().run_node(n)
        except RAISED as error:
            raise GraphError(f"{self._where(n)}: {_first_line(error)}; samples are {self.input_shape}") from error
        if n.op == "placeholder" and isinstance(result, Tensor):
            axes = ((),) * (result.dim() - 1 - len(self.input_shape))  # One channel that the samples do not show.
            axes += tuple((axis,) for axis in range(len(self.input_shape)))
            self.values[n] = Value((Part(DraftVertex("x", "the input", 1, self.input_shape), axes, open=False),))
        elif n.op == "output":
            self.last = self._output(n)
        elif known and n.op != "get_attr" and _holds_tensors(result):
            self.values[n] = _shared(self._read(n, rule, result), _readers(n))
        return result

    def _rule(self, node: fx.Node) -> Any:
        """What reads a call; None if only its numbers matter (a size)."""
        if node.op == "call_module":
            layer = self.root.get_submodule(str(node.target))
            changed = changed_call(layer)
            if changed:
                raise GraphError(f"{self._where(node)}: {changed}")
            if type(layer) not in MODULES:
                accepted = ", ".join(known.__name__ for known in MODULES)
                remedy = _FOLD if type(layer).__name__.startswith("BatchNorm") else "take it out"
                raise GraphError(f"{self._where(node)}: has no map; accepted layers: {accepted}; {remedy}")
            return MODULES[type(layer)]
        return FUNCTIONS.get(_function_name(node))

    def _read(self, node: fx.Node, rule: Any, result: object) -> Any:
        if rule is None:
            accepted = ", ".join(sorted(set(FUNCTIONS) - {"getitem", "iadd", "imul"}))
            raise GraphError(f"{self._where(node)}: has no map; accepted functions: {accepted}")
        shape = tuple(result.shape) if isinstance(result, Tensor) else (_SAMPLES,)
        where = self._where(node)
        if shape[:1] != (_SAMPLES,):
            raise GraphError(f"{where}: changes the axis of samples; accepted: results (N, ...)")
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.values.get(n, self.env[n]))
        self._check_in_place(node)
        call = Call(self._name(node), where, shape[1:], self.parameters, self.readers)
        given = [call, *([self.root.get_submodule(str(node.target))] if node.op == "call_module" else []), *args]
        try:
            inspect.signature(rule).bind(*given, **kwargs)
        except TypeError as error:
            raise GraphError(f"{where}: {error}; accepted: the usual arguments") from error
        return rule(*given, **kwargs)

    def _check_in_place(self, node: fx.Node) -> None:
        layer = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        inplace = getattr(layer, "inplace", False) or node.kwargs.get("inplace", False)
        inplace = inplace or _raw_name(node) in ("iadd", "imul") or _raw_name(node).endswith("_")
        source = node.all_input_nodes[0]
        if inplace and len(_readers(source)) > 1:
            raise GraphError(f"{self._where(node)}: changes in place what is read again; accepted: without inplace")

    def _output(self, node: fx.Node) -> DraftVertex:
        value = self.values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        where = f"module {type(self.root).__name__}"
        part = value.parts[0] if isinstance(value, Value) and len(value.parts) == 1 else None
        if part is None or part.axes != FLAT or not part.draft.has_rows or not part.open:
            last = f", which {part.draft.where} makes" if part else ""
            raise GraphError(f"{where}: returns something else{last}; accepted: (N, outputs), made by a Linear layer")
        part.draft.name = "y"
        return part.draft

    def _name(self, node: fx.Node) -> str:
        name = str(node.target) if node.op == "call_module" else node.name
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}.{count}"
        self.names.add(unique)
        return unique

    def _where(self, node: fx.Node) -> str:
        if node.op == "call_module":
            layer = type(self.root.get_submodule(str(node.target))).__name__
            called = f"layer '{node.target}' ({layer})"
        elif node.op in ("call_function", "call_method"):
            called = f"{'function' if node.op == 'call_function' else 'method'} {_raw_name(node)}"
        else:
            called = f"{node.op} '{node.target}'"
        lines = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
        own = [(file, line) for file, line in lines if not file.startswith(_TORCH)]
        return called + (f" at {own[-1][0]}:{own[-1][1]}" if own else "")


def _readers(node: fx.Node) -> list[fx.Node]:
    """The calls that read a result's numbers, rather than its shape."""
    return [user for user in node.users if _raw_name(user) not in ("getattr", "size", "dim")]


def _shared(value: Any, readers: Sequence[fx.Node]) -> Any:
    """A value of which several calls may read the same part: its drafts may no longer be changed."""
    if isinstance(value, tuple):
        indices = [node.args[1] for node in readers if len(node.args) > 1]
        return tuple(_opened(item, indices.count(i) <= 1) for i, item in enumerate(value))
    return _opened(value, len(readers) <= 1)


def _opened(value: Any, alone: bool) -> Any:
    if not isinstance(value, Value) or alone:
        return value
    return Value(tuple(Part(p.draft, p.axes, False, p.upsample, p.token) for p in value.parts), value.axis)


def _raw_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _function_name(node: fx.Node) -> str:
    """The name of a method, or of a function of torch or of an operator; others have none that is known."""
    home = getattr(node.target, "__module__", None) or "torch"
    known = node.op == "call_method" or home.split(".")[0] in ("torch", "_operator")
    name = _raw_name(node)
    return (name[:-1] if name.endswith("_") and not name.startswith("_") else name) if known else ""


def _holds_tensors(result: object) -> bool:
    return isinstance(result, Tensor) or (isinstance(result, tuple | list) and any(map(_holds_tensors, result)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _line_of(error: BaseException) -> str:
    """Where in somebody's own code an exception arose."""
    found, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_TORCH, str(Path(__file__).parent))):
            found = f" at {file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
