"""A key-value cache for decoding: allocated once, written in place, and shrunk where it stands as responses end.

Legend: B rows, L places, d width of a head.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: the first `rows` of B and the first `length` of L are in use.

    Once `place` is set, all of L are, and the next key goes to that place.
    """

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length, self.rows = capacity, 0, 0
        self.place: Int[Tensor, " 1"] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Room for the rows of the first call."""
        self.rows, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(self.rows, heads, self.capacity, width)
        self.values = value_states.new_zeros(self.rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "B heads L d"], Float[Tensor, "B heads L d"]]:
        """Append, and give everything so far as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.place is not None:
            keys, values = self.keys[: self.rows], self.values[: self.rows]
            return keys.index_copy_(2, self.place, key_states), values.index_copy_(2, self.place, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[: self.rows, :, start : self.length] = key_states
        self.values[: self.rows, :, start : self.length] = value_states
        return self.keys[: self.rows, :, : self.length], self.values[: self.rows, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys after the next call, and where they start."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Places in use."""
        return self.length

    def get_max_length(self) -> int:
        """L."""
        return self.capacity

    def repeat(self, rows: Int[Tensor, " B"]) -> None:
        """Row i becomes a copy of the former row `rows[i]`, with room for as many."""
        keys, values = self.keys[rows, :, : self.length], self.values[rows, :, : self.length]
        length, self.length = self.length, 0
        self.lazy_initialization(keys, values)
        self.update(keys, values)
        assert self.length == length

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Only these rows, in ascending order, moved to the front."""
        for buffer in (self.keys, self.values):
            buffer[: len(rows), :, : self.length] = buffer[rows, :, : self.length]
        self.rows = len(rows)


class DecodeCache(Cache):  # type: ignore[misc]
    """One such layer for each of the model's, made as the first pass asks for them."""

    def __init__(self, capacity: int) -> None:
        super().__init__(layer_class_to_replicate=lambda: _Layer(capacity))

    def repeat(self, rows: Int[Tensor, " B"]) -> None:
        """See `_Layer.repeat`."""
        for layer in self.layers:
            layer.repeat(rows)

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """See `_Layer.keep`."""
        for layer in self.layers:
            layer.keep(rows)

    def write_at(self, place: Int[Tensor, " 1"]) -> None:
        """From now on each pass is over one token, goes to the place that the tensor then says, and reads all L.

        So its shapes and addresses are always the same; places that nothing was written to must be masked.
        """
        for layer in self.layers:
            layer.place, layer.length = place, layer.capacity
