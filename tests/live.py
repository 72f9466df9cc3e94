"""How much memory tensors take at once: every storage that an operation makes counts until it is freed."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What an operator makes within and frees, which no mode is shown: as large as its first input.
WITHIN = (torch.ops.aten.logsumexp.default,)


class Live(TorchDispatchMode):
    """Within, `peak` is the most bytes that storages made here took at once, and `largest` the largest of them."""

    def __init__(self):
        super().__init__()
        self.held, self.now, self.peak, self.largest = {}, 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        made = function(*args, **(kwargs or {}))
        if function in WITHIN:
            self.peak = max(self.peak, self.now + args[0].numel() * args[0].element_size())
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage(), given)
        return made

    def _note(self, storage, given):
        key = storage._cdata
        if key in self.held or key in given:
            return
        self.held[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, storage.nbytes())
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key):
        self.now -= self.held.pop(key, 0)
