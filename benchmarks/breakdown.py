"""Where the time of a training step goes, by torch's profiler."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

GROUPS = {  # operator -> line of the table; by its own time, without the operators that it calls
    "aten::mkldnn_convolution": "convolution, forward",
    "aten::_convolution": "convolution, forward",  # of the transposed ones, all of it
    "aten::convolution_backward": "convolution, backward",
    "aten::copy_": "copies",
    "aten::native_group_norm": "group norm, forward",
    "aten::native_group_norm_backward": "group norm, backward",
    "aten::silu": "SiLU",
    "aten::silu_": "SiLU",
    "aten::silu_backward": "SiLU",
    "aten::add": "additions, scale and shift",
    "aten::add_": "additions, scale and shift",
    "aten::mul": "additions, scale and shift",
    "aten::addcmul": "additions, scale and shift",
    "aten::sum": "additions, scale and shift",
    "aten::cat": "concatenation",
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::_fused_adam_": "optimiser",
    "aten::_foreach_lerp_": "averages",
    "aten::lerp_": "averages",
    "aten::_foreach_norm": "gradient norm",
    "aten::linalg_vector_norm": "gradient norm",
}
REST = "the rest"


def breakdown(step: Callable[[], object], steps: int) -> dict[str, float]:
    """Return seconds per step by group, largest first; the threads that prepare batches are not seen."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            step()
    seconds = dict.fromkeys(GROUPS.values(), 0.0) | {REST: 0.0}
    for event in recorded.key_averages():
        seconds[GROUPS.get(event.key, REST)] += event.self_cpu_time_total / 1e6 / steps
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
