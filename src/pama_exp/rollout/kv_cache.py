"""A key-value cache for decoding: allocated once, written in place, and shrunk in place as responses end.

Legend: B rows, L places, d width of a head.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: the first `rows` of B rows and the first `length` of L places are in use.

    Once `place` is set, all L places are in use and the next key is written to that place.
    """

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length, self.rows = capacity, 0, 0
        self.place: Int[Tensor, " 1"] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate keys and values for the rows of the first call."""
        self.rows, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(self.rows, heads, self.capacity, width)
        self.values = value_states.new_zeros(self.rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "B heads L d"], Float[Tensor, "B heads L d"]]:
        """Append keys and values; returns all of them so far, as views."""
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
        """Number of keys after a call with `query_length` tokens, and the index of the first (0)."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Number of places in use."""
        return self.length

    def get_max_length(self) -> int:
        """Number of places allocated per row, L."""
        return self.capacity

    def repeat(self, rows: Int[Tensor, " B"]) -> None:
        """Replace the rows: row i becomes a copy of the former row `rows[i]`; memory is allocated for them."""
        keys, values = self.keys[rows, :, : self.length], self.values[rows, :, : self.length]
        length, self.length = self.length, 0
        self.lazy_initialization(keys, values)
        self.update(keys, values)
        assert self.length == length

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Keep only these rows, given in ascending order; they move to the front."""
        for buffer in (self.keys, self.values):
            buffer[: len(rows), :, : self.length] = buffer[rows, :, : self.length]
        self.rows = len(rows)


class DecodeCache(Cache):  # type: ignore[misc]
    """The cache of a model: one `_Layer` per layer, created in the first pass, with `capacity` places per row."""

    def __init__(self, capacity: int) -> None:
        super().__init__(layer_class_to_replicate=lambda: _Layer(capacity))

    def repeat(self, rows: Int[Tensor, " B"]) -> None:
        """Replace the rows of every layer: row i becomes a copy of the former row `rows[i]`."""
        for layer in self.layers:
            layer.repeat(rows)

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Keep only these rows in every layer, given in ascending order; they move to the front."""
        for layer in self.layers:
            layer.keep(rows)

    def write_at(self, place: Int[Tensor, " 1"]) -> None:
        """From now on each pass takes one token, writes to the place that the tensor then holds, reads all L places.

        Shapes and addresses are then the same in every pass. Places that were never written to must be masked.
        """
        for layer in self.layers:
            layer.place, layer.length = place, layer.capacity
