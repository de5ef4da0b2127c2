"""ONNX graphs, written byte by byte: what protocol buffers of a model with one node look like."""


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number % 128 + 128)
        number //= 128
    return bytes([*found, number])


def field(number: int, content: int | bytes | str) -> bytes:
    """Return a field of a message: an integer, or bytes with their length."""
    if isinstance(content, int):
        return varint(8 * number) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(8 * number + 2) + varint(len(data)) + data


def values(name: str, shape: tuple[str | int, ...]) -> bytes:
    """Return a ValueInfoProto of float32; names stand for sizes that vary."""
    sizes = b"".join(field(1, field(2 if isinstance(n, str) else 1, n)) for n in shape)
    tensor = field(1, 1) + field(2, sizes)
    return field(1, name) + field(2, field(1, tensor))


def averaging() -> bytes:
    """Return a model that averages images over their pixels: (N, C, H, W) to (N, C)."""
    axes = field(1, "axes") + field(20, 7) + field(8, 2) + field(8, 3)
    flat = field(1, "keepdims") + field(20, 2) + field(3, 0)
    node = field(1, "x") + field(2, "y") + field(4, "ReduceMean") + field(5, axes) + field(5, flat)
    graph = field(1, node) + field(2, "averaging")
    graph += field(11, values("x", ("n", 1, 8, 8))) + field(12, values("y", ("n", 1)))
    return field(1, 8) + field(8, field(2, 13)) + field(7, graph)
